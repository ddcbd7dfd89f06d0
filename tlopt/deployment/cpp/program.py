"""Running the compiled program, and reading what it prints."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tlopt.errors import StageError

_LONGEST = 900  # seconds after which it counts as hanging


def run(program: Path, arguments: Sequence[str | Path]) -> bytes:
    """Run the program and return what it printed.

    Raises:
        StageError: It failed.
    """
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired as error:
        raise StageError(f"The C++ program did not end within {_LONGEST} seconds.") from error
    if done.returncode:
        raise StageError(f"The C++ program failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def numbers(printed: bytes) -> np.ndarray:
    """Return what ``--numbers`` printed: float32 (n, classes)."""
    return np.array([line.split(b"\t")[1:] for line in printed.splitlines()], np.float32)


def pictures(printed: bytes) -> list[np.ndarray]:
    """Return the images that ``--pixels`` and ``--decoded`` printed, PPM files: uint8 (h, w, 3) each."""
    found, at = [], 0
    while at < len(printed):
        _, size, _ = printed[at : at + 64].split(b"\n", 3)[:3]
        start = at + len(b"P6\n") + len(size) + len(b"\n255\n")
        width, height = map(int, size.split())
        at = start + width * height * 3
        found.append(np.frombuffer(printed[start:at], np.uint8).reshape(height, width, 3))
    return found
