"""Dockerfiles of deployments."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence


def python_image() -> str:
    """Return the image that fits requirements pinned here: the versions are for this version of Python."""
    major, minor, _ = platform.python_version_tuple()
    return f"python:{major}.{minor}-slim"


def program(*, files: Sequence[str], folders: Sequence[str], run: Sequence[str], check: Sequence[str]) -> str:
    """Return a Dockerfile of a Python program that runs as a user without rights.

    Args:
        files: What is copied besides requirements.txt.
        folders: Folders that are copied, each to its own name.
        run: The program, with what stands before its arguments.
        check: Arguments with which it checks itself: those of a container that is given none, and of its health check.
    """
    copied = "".join(f"COPY {name} {name}\n" for name in folders)
    return f"""\
FROM {python_image()}
WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check --requirement requirements.txt \\
    && useradd --system --no-create-home app
COPY {" ".join(files)} ./
{copied}USER app
HEALTHCHECK --interval=5m --timeout=1m --start-period=30s CMD {json.dumps([*run, *check])}
ENTRYPOINT {json.dumps(list(run))}
CMD {json.dumps(list(check))}
"""
