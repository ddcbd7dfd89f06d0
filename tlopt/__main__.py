"""``python -m tlopt`` runs the command line."""

import os
import sys

# Python was told to search the current folder first. A folder of images may hold a numpy.py, which nobody asked for.
if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 - imports nothing more
    del sys.path[0]

from tlopt.cli import main

main()
