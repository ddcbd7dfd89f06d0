"""What the command line shows: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tlopt.progress import NOTICE, Bar, display
from tlopt.reading.names import shown, shown_name

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

T = TypeVar("T")


class _ClickBar:
    """A progress bar that appears once its task has taken half a second."""

    def __init__(self, label: str, total: int) -> None:
        self._bar: Any = click.progressbar(
            length=total,
            label=shown_name(label),
            file=sys.stderr,
            item_show_func=lambda note: shown_name(note or ""),
            show_pos=True,
            width=24,
        )
        self._lock = threading.Lock()
        self._shown = False
        # A timer, because a task of one long step has nothing to report before it is done.
        self._timer = threading.Timer(0.5, self._show)
        self._timer.daemon = True
        self._timer.start()

    def _show(self) -> None:
        with self._lock:
            self._bar.__enter__()
            self._shown = True

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by some steps."""
        with self._lock:
            if self._shown:
                self._bar.update(steps, note or None)
            else:
                self._bar.pos += steps

    def close(self, error: bool) -> None:
        """Leave the finished bar on the screen."""
        self._timer.cancel()
        with self._lock:
            if self._shown:
                self._bar.finished = not error
                self._bar.__exit__(None, None, None)


class _Line:
    """Where stderr is no terminal, a task that takes long says so once, and how long it took."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._started = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:  # noqa: ARG002 - notes need a terminal
        """Count."""
        self._done += steps

    def close(self, error: bool) -> None:  # noqa: ARG002
        """Say how long it took, if that was long."""
        seconds = time.monotonic() - self._started
        if seconds > 2:
            click.echo(f"{shown_name(self._label)}: {self._done}/{self._total} in {seconds:.1f} s", err=True)


@contextmanager
def progress(label: str, total: int) -> Iterator[Bar]:
    """Show a task's progress on stderr."""
    shown = (_ClickBar if sys.stderr.isatty() else _Line)(label, total)
    try:
        yield shown
    except BaseException:
        shown.close(error=True)
        raise
    shown.close(error=False)


def colored() -> bool:
    """Whether stdout takes colour."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def width() -> int:
    """Return how many characters a line of the terminal has; 80 where there is none."""
    return shutil.get_terminal_size().columns


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        word = {logging.WARNING: "Warning: ", logging.ERROR: "Error: "}.get(record.levelno, "")
        complain(word + record.getMessage())


@contextmanager
def heard(*, verbose: int, quiet: bool) -> Iterator[None]:
    """Show as much on stderr inside the block as the user wants, whether the options stand before or after the verb.

    Raises:
        UsageError: The user wants more and less at once.
    """
    before = click.get_current_context().find_root().params
    verbose, quiet = verbose + before.get("verbose", 0), quiet or before.get("quiet", False)
    if verbose and quiet:
        raise click.UsageError("--verbose and --quiet exclude each other.")
    set_up_logging(-1 if quiet else verbose)
    if quiet:
        yield
        return
    token = display.set(progress)
    try:
        yield
    finally:
        display.reset(token)


class ReaderGoneError(Exception):
    """Whoever read the output has gone, in the middle of a command."""


class _Messages(io.FileIO):
    """A file for messages: that nobody reads them any more, or that the disk is full, ends no work."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some bytes; those that find no room are dropped."""
        with contextlib.suppress(OSError):
            if (written := super().write(data)) is not None:
                return written
        return memoryview(data).nbytes


def mend_streams() -> None:
    """Make stdout and stderr take whatever is printed: they may be closed, or know few characters.

    A closed one is opened on nothing, or the next file that is opened would get its number and what libraries print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(own := sys.stderr, io.TextIOWrapper) and own is sys.__stderr__:
        messages = io.BufferedWriter(_Messages(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(messages, own.encoding, "backslashreplace", line_buffering=True)


@contextmanager
def aside() -> Iterator[None]:
    """Let what libraries and networks of the user print inside the block go to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def made_aside(items: Iterable[T]) -> Iterator[T]:
    """Yield items as they come; what is printed while one is made goes to stderr."""
    rest = iter(items)
    while True:
        with aside():
            try:
                item = next(rest)
            except StopIteration:
                return
        yield item


def show(text: str, *, go_on: bool = True) -> None:
    """Print a result.

    Args:
        text: What is printed.
        go_on: Whether there is more to do than to print, though nobody may read it.

    Raises:
        ReaderGoneError: Nobody reads it, and there is nothing else to do.
    """
    try:
        click.echo(text)
    except BrokenPipeError as error:
        if not go_on:
            raise ReaderGoneError from error
        drop_unwritable()


def drop_unwritable() -> None:
    """Throw away what stdout does not take, so that Python does not fail over it once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(text: str) -> None:
    """Say something on stderr; a terminal gets it in lines of at most 80 characters."""
    text = shown(text)
    if sys.stderr.isatty():
        most = min(80, width())
        lines = [textwrap.fill(line, most, break_long_words=False, break_on_hyphens=False) for line in text.split("\n")]
        text = "\n".join(lines)
    click.echo(text, err=True)


def complain_of_usage(error: click.UsageError) -> None:
    """Say what is wrong with a command line, and how the command is used."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError) or error.ctx is None:
        error.show()
        return
    click.echo(error.ctx.get_usage(), err=True)
    click.echo(f"Try '{error.ctx.command_path} --help' for help.\n", err=True)
    complain(f"Error: {error.format_message()}")


def set_up_logging(verbosity: int) -> None:
    """Send tlopt's own log to stderr: warnings and notices, with 1 one line per stage, with 2 all; with -1 errors."""
    level = {-1: logging.ERROR, 0: NOTICE, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    logger = logging.getLogger("tlopt")
    logger.handlers[:] = [_Handler()]
    logger.setLevel(level)
    logger.propagate = False
    # Pillow warns of images with more than 89 million pixels, in words for programmers, and reads them.
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
