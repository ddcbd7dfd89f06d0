"""How a program of another environment is started: nothing of ours or of the current folder is in its way."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

# What changes which code a Python process runs; the environment that is named decides that alone.
_OURS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "LD_PRELOAD")
LOOPBACK = "127.0.0.1"


def script(python: Path, file: Path, *arguments: object) -> list[str]:
    """Return the command line that runs a script in the environment of a Python, apart from everything else.

    ``-I`` leaves out the current folder, the user's own packages and Python's variables.
    """
    return [str(python), "-I", str(file), *map(str, arguments)]


def environment(*, first: Iterable[Path] = (), libraries: Path | None = None) -> Mapping[str, str]:
    """Return the environment of a program that finds its own code and libraries.

    Args:
        first: Folders of programs that come before all others.
        libraries: Folder of shared libraries that comes before all others.
    """
    found = {name: value for name, value in os.environ.items() if name not in _OURS}
    # An empty entry of a search path is the current folder, and a relative one lies in it.
    for name, folders in (("PATH", [*first]), ("LD_LIBRARY_PATH", [libraries] if libraries else [])):
        inherited = [entry for entry in found.get(name, "").split(os.pathsep) if os.path.isabs(entry)]  # noqa: PTH117
        if entries := [*map(str, folders), *inherited]:
            found[name] = os.pathsep.join(entries)
        else:
            found.pop(name, None)
    return {**found, "PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}


def free_ports(count: int) -> tuple[int, ...]:
    """Return ports of the loopback interface that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return tuple(one.getsockname()[1] for one in sockets)
    finally:
        for one in sockets:
            one.close()


def is_taken(host: str, port: int) -> bool:
    """Return whether a port cannot be listened on.

    Raises:
        PermissionError: This user may not listen on it, taken or not.
        OSError: This machine does not have the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not taken by connections that have just ended
        try:
            tried.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EACCES):
                raise
            return True
    return False
