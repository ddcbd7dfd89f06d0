"""The runner on the real pycuda and the real cuda-bindings, over a stand-in for the driver below them."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import COUNTED, compile_driver

HERE = Path(__file__).parent
PACKAGES = {"pycuda": "pycuda", "cuda-bindings": "cuda"}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to compile the stand-in with")
    return compile_driver(tmp_path_factory.mktemp("driver"))


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("scenarios", ["", "outlives_its_thread"], ids=["all", "context first made in a worker"])
def test_what_drives_a_gpu_runs_on_the_stand_in_and_leaves_nothing_behind(package, scenarios, library, tmp_path):
    if importlib.util.find_spec(PACKAGES[package]) is None:
        pytest.skip(f"{package} is not installed (tests/fake_cuda/install_pycuda.py compiles pycuda without a GPU)")
    report = tmp_path / "left"
    paths = [HERE.parents[1], HERE, *filter(None, [os.getenv("PYTHONPATH")])]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(library),
        "FAKE_CUDA_REPORT": str(report),
        "STAND_IN_PACKAGE": package,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
    command += [f"--basetemp={tmp_path / 'scenarios'}", str(HERE / "scenarios.py"), "-k", scenarios]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert report.read_text().split() == [word for name in COUNTED for word in (name, "0")]
