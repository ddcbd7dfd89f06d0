"""Becomes the program named on the command line, which ends when the process that started this one has ended.

python -I starter.py PARENT PROGRAM [ARGUMENT …]
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>; it outlives exec


def main() -> None:
    """Ask the system for the signal, and become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the system was asked
        return
    os.execv(program, sys.argv[2:])


if __name__ == "__main__":
    main()
