"""Whether tlopt and its extras for GPUs can be installed on each Python that it supports: resolved, not installed.

    python benchmarks/resolve.py [EXTRA …]

uv reads what packages declare. Nothing is installed. pip cannot do this: it builds the source packages of TensorRT to
learn what they need, and each of them then fetches its gigabytes from NVIDIA.

Where no package index answers, nothing is checked, and the reason is said.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORM = "x86_64-manylinux_2_34"
LIMIT_S = 120
SHOWN = re.compile(
    r"^(torch|onnxruntime-[a-z0-9-]*|tensorrt[a-z0-9-]*|pycuda|cuda-bindings|nvidia-ml-py)==(\S+)", re.MULTILINE
)
OFFLINE = ("error sending request", "dns error", "Failed to fetch", "network was disabled", "timed out")


def resolved(extra: str, python: str) -> subprocess.CompletedProcess[str]:
    """Resolve tlopt with an extra for a version of Python."""
    command = [sys.executable, "-m", "uv", "--quiet", "pip", "compile", str(ROOT / "pyproject.toml"), "--extra", extra]
    command += ["--python-version", python, "--python-platform", PLATFORM, "--no-header", "--no-annotate"]
    # No package is built, so the version of Python that is asked for need not be here.
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_HTTP_TIMEOUT": "30"}
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=environment)


def mixed(requirements: str) -> str:
    """Return the versions of CUDA that packages are for, if they are for more than one."""
    majors = sorted(set(re.findall(r"^[a-z0-9-]+-cu(\d\d)\b", requirements, re.MULTILINE)))
    return f"packages for CUDA {' and '.join(majors)} together" if len(majors) > 1 else ""


def main() -> int:
    """Resolve each extra for each Python."""
    failed = 0
    for extra in sys.argv[1:] or ("gpu", "rtx"):
        for python in PYTHONS:
            started = time.monotonic()
            try:
                done = resolved(extra, python)
            except subprocess.TimeoutExpired:
                print(f"Not checked: no answer within {LIMIT_S} s.")
                return 0
            if done.returncode and any(word in done.stderr for word in OFFLINE):
                print(f"Not checked: no package index answers.\n{done.stderr.strip()}")
                return 0
            wrong = done.stderr.strip() if done.returncode else mixed(done.stdout)
            failed += bool(wrong)
            found = ", ".join(" ".join(pair) for pair in SHOWN.findall(done.stdout))
            print(f"tlopt[{extra}], Python {python}, {time.monotonic() - started:.0f} s: {wrong or found}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
