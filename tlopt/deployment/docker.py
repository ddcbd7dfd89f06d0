"""Dockerfiles of deployments."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence

_USER = 1000  # a number: Kubernetes can tell that it is not root


def python_image() -> str:
    """Return the image that fits requirements pinned here: the versions are for this version of Python."""
    major, minor, _ = platform.python_version_tuple()
    return f"python:{major}.{minor}-slim"


def program(
    *, files: Sequence[str], folders: Sequence[str], run: Sequence[str], check: Sequence[str], modules: Sequence[str],
    unneeded: Sequence[str], tried: bool, environment: Mapping[str, str],
) -> str:  # fmt: skip
    """Return a Dockerfile of a Python program that runs as a user without rights.

    Of the packages, what no program imports is left out of the image: their tests, their bytecode but for that of the
    modules named, and the folders named.

    Args:
        files: What is copied besides requirements.txt.
        folders: Folders that are copied, each to its own name.
        run: The program, with what stands before its arguments.
        check: Arguments with which it checks itself: those of a container that is given none, and of its health check.
        modules: What the program imports, beside Pillow's formats.
        unneeded: Folders of packages that are not needed to run.
        tried: Whether the check can run while the image is built.
        environment: Variables that are set for all that runs in it.
    """
    copied = "".join(f"COPY {name} {name}\n" for name in folders)
    removed = "".join(f' "$site"/{name}' for name in unneeded)
    variables = "".join(f"ENV {name}={value}\n" for name, value in environment.items())
    imported = ", ".join([*modules, "PIL.Image as image"])
    lines = [
        "RUN pip install --no-cache-dir --no-compile --disable-pip-version-check --requirement requirements.txt",
        'site="$(python -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')"',
        'find "$site" -type d -name tests -prune -exec rm -r {} +',
        *([f"rm -rf{removed}"] if removed else []),
        *([f"python -c 'import {imported}; image.preinit()'"] if tried else []),
        f"useradd --no-create-home --uid {_USER} app",
    ]
    installed = " \\\n    && ".join(lines)
    trial = f"# Its answers are compared before there is an image.\nRUN {' '.join([*run, *check])}\n" if tried else ""
    return f"""\
FROM {python_image()}
{variables}WORKDIR /app
COPY requirements.txt ./
{installed}
COPY {" ".join(files)} ./
{copied}USER {_USER}
{trial}HEALTHCHECK --interval=5m --timeout=1m --start-period=30s CMD {json.dumps([*run, *check])}
ENTRYPOINT {json.dumps(list(run))}
CMD {json.dumps(list(check))}
"""
