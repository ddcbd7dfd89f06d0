"""How a Python process of our own is started: with this tlopt, and never a module from the current folder.

``python -m`` puts the current folder first on the module search path. A folder of images with a ``numpy.py`` in it
would then have its code run, and in a clone of another version of tlopt, that version would be measured.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

# The package is made known by its place: the folder around it may be one that is not to be searched.
_START = """\
import sys
import json
found = json.loads(sys.argv.pop())
sys.path[:] = found["path"]
import importlib.util
spec = importlib.util.spec_from_file_location("tlopt", found["tlopt"])
sys.modules["tlopt"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["tlopt"])
import runpy
runpy.run_module(found["module"], run_name="__main__", alter_sys=True)
"""


def command(module: str, *arguments: object) -> list[str]:
    """Return the command line that runs a module of tlopt in a process of its own.

    Args:
        module: Its full name.
        arguments: What the module finds in `sys.argv`.
    """
    found = {"path": search_path(), "tlopt": str(Path(__file__).resolve().parents[1] / "__init__.py"), "module": module}
    return [sys.executable, "-P", "-c", _START, *map(str, arguments), json.dumps(found)]


def environment() -> Mapping[str, str]:
    """Return the environment of such a process: what it starts itself is to pass over the current folder, too."""
    return {**os.environ, "PYTHONSAFEPATH": "1"}


def ended(code: int) -> str:
    """Return in words how a process ended.

    Args:
        code: As `subprocess` gives it: negative for a signal.
    """
    if code >= 0:
        return f"ended with code {code}"
    said = (signal.strsignal(-code) or "unknown").lower()
    hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
    return f"was ended by signal {-code} ({said}{hint})"


def search_path() -> list[str]:
    """Return where this process searches for modules, without the current folder that nobody asked for.

    Python puts it there for ``python -m``, ``python -c``, a prompt or a notebook; in PYTHONPATH, it was asked for.
    """
    current = Path.cwd().resolve()
    asked = {_absolute(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    return [entry for entry in sys.path if entry and (_absolute(entry) != current or current in asked)]


def _absolute(entry: str) -> Path:
    return Path(entry).resolve()
