"""The command ``tlopt`` and ``python -m tlopt`` start here."""

from __future__ import annotations

import contextlib
import os
import sys

# Python was told to search the current folder first. A folder of images may hold a numpy.py, unasked for.
if __name__ == "__main__" and not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):  # noqa: PTH109
    del sys.path[0]


def start() -> None:
    """Run the command line; Ctrl-C ends it with exit code 130 and no traceback, also while it is imported.

    SIGTERM and SIGHUP end it alike, with 143 and 129.
    """
    try:
        from tlopt.process import interrupts

        interrupts.listen()
        from tlopt.cli import main

        main()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            os.write(2, b"Interrupted; nothing half-written was left.\n")
        loaded = sys.modules.get("tlopt.process.interrupts")
        sys.exit(getattr(loaded, "code", lambda: 130)())


if __name__ == "__main__":
    start()
