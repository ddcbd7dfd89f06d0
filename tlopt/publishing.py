"""How everything is written: beside its place first, and renamed when complete."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tlopt.errors import OutputExistsError


@contextlib.contextmanager
def draft(out: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a scratch folder that becomes `out` only if the block succeeds.

    The scratch folder lies beside `out`, so that the final rename is atomic. Whatever interrupts
    the block leaves `out` as it was; a scratch folder that a killed process left is swept away by
    the next one.

    Args:
        out: The folder to make.
        force: Replace what is there.

    Raises:
        OutputExistsError: `out` exists and `force` is not set, or a file is where its folder would be.
    """
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OutputExistsError(
            f"{out} cannot be made: {out.parent} is, or lies below, a file.", hint="Choose another --out."
        ) from None
    _sweep(out)
    if not force:
        refuse_existing(out)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.{os.getpid()}@{_node()}.", dir=out.parent))
    try:
        yield scratch
        _publish(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def refuse_existing(out: Path) -> None:
    """Raise an error if something is at `out`.

    Raises:
        OutputExistsError: It exists and is not an empty folder.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise OutputExistsError(f"{out} exists already.", hint="Choose another --out, or add --force to replace it.")


def _publish(scratch: Path, out: Path) -> None:
    scratch.chmod(0o755)
    for file in scratch.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    if out.exists() or out.is_symlink():
        # A folder cannot be replaced in one step: the old one is set aside first, then dropped.
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.{os.getpid()}@{_node()}.", dir=out.parent))
        out.rename(old / "old")
        scratch.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        scratch.rename(out)


def _sweep(out: Path) -> None:
    """Remove scratch folders of this output whose process is gone; bring back what one set aside."""
    for scratch in out.parent.glob(f".{out.name}.*.*"):
        owner, _, node = scratch.name.removeprefix(f".{out.name}.").partition(".")[0].partition("@")
        if not owner.isdigit() or node != _node() or _alive(int(owner)):
            continue
        if (scratch / "old").exists() and not out.exists():
            (scratch / "old").rename(out)
        shutil.rmtree(scratch, ignore_errors=True)


def _node() -> str:
    """Return this machine's name: several may share a file system, and each knows its own processes only."""
    return platform.node().replace(".", "-")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A killed process answers until its parent has asked for its exit status; in a container, that may be never.
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state != "Z"
