"""Run what a Dockerfile says in a clean Debian root, where there is no Docker.

    python docker/rehearse.py docker/cpu.Dockerfile --root /tmp/root [--context .] [--replace OLD NEW]

For images of Python, ``python:3.x-slim``, only: the root is Debian as debootstrap makes it, and the Python is the one
that runs this. Needs root's rights and the package debootstrap. Each instruction is carried out in its place: ENV,
WORKDIR, COPY, USER, RUN; at the end the health check, or else the entry point with its default arguments.

The root that it makes is kept: a second run starts from there, as it was before the first instruction.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# What Python of the image python:slim is linked with, and pip needs to reach an index.
_PACKAGES = (
    "ca-certificates", "libbz2-1.0", "libcrypt1", "libexpat1", "libffi8", "liblzma5", "libncursesw6", "libnsl2",
    "libreadline8", "libsqlite3-0", "libssl3", "libtirpc3", "libuuid1", "zlib1g",
)  # fmt: skip
# How this machine reaches Debian and PyPI; a Docker host has its own way.
_NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")


_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Place:
    """A root, and the state that instructions leave.

    Attributes:
        root: The folder.
        context: Where files are copied from.
        folder: The working folder in the root.
        user: The user that commands run as.
        environment: Of commands.
        programs: Instruction -> the command that it names for later.
    """

    root: Path
    context: Path
    folder: str = "/"
    user: str = "0"
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    programs: dict[str, list[str]] = field(default_factory=dict)

    def run(self, *command: str) -> None:
        """Run a command in the root, as the user, in the working folder; fail if it fails."""
        number = self.user if self.user.isdigit() else self._number(self.user)
        outside = ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={self.root}/proc"]
        inside = ["chroot", f"--userspec={number}:{number}", self.root]
        shell = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.folder]
        subprocess.run([*outside, *inside, *shell, *command], check=True, env=self.environment)

    def _number(self, name: str) -> str:
        lines = (self.root / "etc/passwd").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[2] for line in lines if line.startswith(f"{name}:"))

    def carry_out(self, name: str, arguments: str) -> None:
        """Carry out an instruction."""
        if name == "RUN":
            self.run("sh", "-c", arguments)
        elif name == "COPY":
            self._copy(*arguments.split())
        elif name == "ENV":
            self.environment |= dict(pair.split("=", 1) for pair in shlex.split(arguments))
        elif name == "WORKDIR":
            self.folder = arguments
            self._inside(".").mkdir(parents=True, exist_ok=True)
        elif name == "USER":
            self.user = arguments
        elif name in ("HEALTHCHECK", "ENTRYPOINT", "CMD"):
            self.programs[name] = json.loads(arguments.rpartition("CMD ")[2])
        elif name != "FROM":
            raise SystemExit(f"The instruction {name} is not known here.")

    def _copy(self, *paths: str) -> None:
        *sources, target = paths
        for source in sources:
            place = self._inside(target) / (source if len(sources) > 1 or target.endswith("/") else "")
            (shutil.copytree if (self.context / source).is_dir() else shutil.copy)(self.context / source, place)

    def _inside(self, path: str) -> Path:
        """Return where a path of the image is on this machine."""
        return self.root / os.path.normpath(os.path.join(self.folder, path)).lstrip("/")


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the instructions of a Dockerfile: name and arguments, continued lines in one."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, arguments = line.strip().partition(" ")
        if name:
            yield name.upper(), arguments.strip()


def make_root(root: Path) -> None:
    """Make a clean Debian with this Python in /usr/local, unless it is there."""
    if not (root / "bin").exists():
        subprocess.run(["debootstrap", "--variant=minbase", _suite(), root], check=True)
    if (root / "usr/local/bin/python").exists():
        return
    _connect(root)
    clean = Place(root=root, context=root)
    clean.run("apt-get", "update", "-qq")
    clean.run("apt-get", "install", "-qq", "--yes", "--no-install-recommends", *_PACKAGES)
    prefix, version = Path(sys.base_prefix), ".".join(platform.python_version_tuple()[:2])
    outside = shutil.ignore_patterns("site-packages", "test", "tests", "__pycache__", "idlelib", "*.a")
    shutil.copytree(prefix / f"lib/python{version}", root / f"usr/local/lib/python{version}", ignore=outside)
    for library in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy(library, root / "usr/local/lib")
    for name in (f"python{version}", "python3", "python"):
        shutil.copy(prefix / f"bin/python{version}", root / "usr/local/bin" / name)
    clean.run("ldconfig")
    clean.run("python", "-m", "ensurepip", "--upgrade")
    (root / "usr/local/bin/pip").write_text('#!/bin/sh\nexec python -m pip "$@"\n', encoding="utf-8")
    (root / "usr/local/bin/pip").chmod(0o755)


def _connect(root: Path) -> None:
    """Let programs in a root reach what this machine reaches."""
    for file in filter(os.path.exists, _NETWORK):
        (root / file[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / file[1:])


def _suite() -> str:
    """Return the name of the release of Debian that runs here."""
    return re.search(r"VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(encoding="utf-8"))[1]


def rehearse(dockerfile: Path, text: str, place: Place) -> None:
    """Carry out a Dockerfile, then its health check and what a container does that is told nothing else."""
    for name, arguments in instructions(text):
        print(f"-- {name} {arguments}", flush=True)
        if name == "FROM" and not re.fullmatch(r"python:3\.\d+-slim", arguments):
            raise SystemExit(f"{dockerfile} starts from {arguments}, which is no Debian with Python alone.")
        place.carry_out(name, arguments)
    programs = place.programs
    for command in (programs.get("HEALTHCHECK", []), [*programs.get("ENTRYPOINT", []), *programs.get("CMD", [])]):
        if command:
            print(f"-- {shlex.join(command)}", flush=True)
            place.run(*command)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--context", type=Path, default=Path(), help="folder that COPY reads from")
    parser.add_argument("--root", type=Path, required=True, help="the root; made if it is not there")
    parser.add_argument(
        "--replace",
        nargs=2,
        action="append",
        default=[],
        metavar=("OLD", "NEW"),
        help="text of the Dockerfile to replace: an index that cannot be reached, say",
    )
    given = parser.parse_args()
    clean = given.root.resolve()
    make_root(clean)
    used = clean.with_name(f"{clean.name}-used")
    if used.exists():
        raise SystemExit(f"{used} is there from an earlier run. Remove it first.")
    subprocess.run(["cp", "--archive", "--reflink=auto", clean, used], check=True)
    _connect(used)  # certificates again: Debian's package brings its own
    text = given.dockerfile.read_text(encoding="utf-8")
    for old, new in given.replace:
        text = text.replace(old, new)
    rehearse(given.dockerfile, text, Place(root=used, context=given.context))
    before, after = (
        int(subprocess.run(["du", "-sm", folder], check=True, capture_output=True, text=True).stdout.split()[0])
        for folder in (clean, used)
    )
    print(f"-- done; the image would have {after - before} MB more than its base")


if __name__ == "__main__":
    main()
