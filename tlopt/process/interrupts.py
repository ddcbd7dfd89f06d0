"""Ctrl-C and requests to end: noticed even where a library turns one into an error of its own, as some do.

What is being written is removed then, as it is after any other failure.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

# Of each signal, what is done about it if nobody has said anything: a user, a supervisor, a closed terminal.
_USUAL = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
_TWICE_S = 1.0  # `timeout` and terminals tell a process and then its group, which is once more: not to stop the tidying
_seen = 0
_last_s = 0.0


def listen() -> None:
    """Notice each of them from now on; nothing changes where one is ignored, or somebody else handles it."""
    for number, usual in _USUAL.items():
        if signal.getsignal(number) is usual:
            signal.signal(number, _handle)


def seen() -> bool:
    """Return whether there was one."""
    return bool(_seen)


def code() -> int:
    """Return the exit code of a process that one of them ended, as shells have it: 130 after Ctrl-C."""
    return 128 + (_seen or signal.SIGINT)


def ignore() -> None:
    """Pass over each further one: the process ends already, and its exit code is known."""
    for number in _USUAL:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_IGN)


def _handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - of every handler
    global _seen, _last_s
    again, _last_s = _seen and time.monotonic() - _last_s < _TWICE_S, time.monotonic()
    _seen = number
    if not again:
        raise KeyboardInterrupt
