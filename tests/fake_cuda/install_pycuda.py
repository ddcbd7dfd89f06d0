"""Compile pycuda and install it, on a machine without a GPU and without the CUDA toolkit.

    python tests/fake_cuda/install_pycuda.py [--target DIR]

The headers come from NVIDIA's packages on PyPI. pycuda is linked against the stand-in for the driver. It takes two
and a half minutes of one core, and needs gcc and g++.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from stand_in import compile_driver

VERSION = "2026.1"
HEADERS = ("nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-cuda-profiler-api")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="give up compiling after this long")
    parser.add_argument("--target", type=Path, help="folder to install into, instead of the environment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        headers = _headers(scratch)
        driver = scratch / "driver"
        driver.mkdir()
        compile_driver(driver)
        (driver / "libcuda.so").symlink_to("libcuda.so.1")
        # Of pycuda alone: with :all: pip would compile what pycuda is built with, too, NumPy among it.
        _pip("download", "--no-deps", "--no-binary", "pycuda", "--dest", scratch, f"pycuda=={VERSION}")
        with tarfile.open(scratch / f"pycuda-{VERSION}.tar.gz") as archive:
            archive.extractall(scratch, filter="data")
        source = scratch / f"pycuda-{VERSION}"
        configure = [sys.executable, "configure.py", "--no-cuda-enable-curand", f"--cuda-inc-dir={headers}"]
        subprocess.run([*configure, f"--cudadrv-lib-dir={driver}"], cwd=source, check=True)
        environment = {**os.environ, "CFLAGS": "-O0 -g0 -w"}  # it only calls the driver: compiling is what takes time
        target = ["--target", options.target] if options.target else []
        try:
            _pip("install", *target, source, environment=environment, seconds=60 * options.minutes)
        except subprocess.TimeoutExpired:
            sys.exit(f"pycuda is not compiled after {options.minutes:g} minutes. The tests leave it out.")


def _headers(scratch: Path) -> Path:
    """Return a folder with cuda.h and what it includes."""
    packages = scratch / "packages"
    _pip("install", "--no-deps", "--target", packages, *HEADERS)
    headers = scratch / "include"
    for found in packages.glob("nvidia/*/include"):
        shutil.copytree(found, headers, dirs_exist_ok=True)
    return headers


def _pip(*arguments: object, environment: dict[str, str] | None = None, seconds: float | None = None) -> None:
    """Run pip; with its compilers it ends when the time is up."""
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--quiet", "--disable-pip-version-check"]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            code = process.wait(seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if code:
        sys.exit(f"pip ended with {code}: {' '.join(command)}")


if __name__ == "__main__":
    main()
