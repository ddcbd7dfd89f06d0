"""Ctrl-C: noticed even where a library turns it into an error of its own, as some do while they are imported."""

from __future__ import annotations

import signal
from types import FrameType

_seen = False


def listen() -> None:
    """Notice each Ctrl-C from now on; nothing changes where it is ignored, or somebody else handles it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)


def seen() -> bool:
    """Return whether there was one."""
    return _seen


def ignore() -> None:
    """Pass over each further one: the process ends already, and its exit code is known."""
    if signal.getsignal(signal.SIGINT) is _handle:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - of every handler
    global _seen
    _seen = True
    raise KeyboardInterrupt
