"""Ctrl-C and requests to end: noticed even where a library turns one into an error of its own, as some do.

What is being written is removed then, as it is after any other failure.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

# Of each signal, what is done about it if nobody has said anything: a user, a supervisor, a closed terminal.
_USUAL = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
_TWICE_S = 1.0  # `timeout` and terminals tell a process and then its group, which is once more: not to stop the tidying
_LATER_S = 0.02  # until it is tried again where it may not interrupt
_seen = 0
_last_s = 0.0
_abandoned = False
_whole: set[str] = set()


def keep_whole(module: str) -> None:
    """Let no interruption fall between two lines of a module or a package: it comes when they have returned.

    So there is no moment in which something is made and nobody knows yet that it is to be removed. Whoever asks a
    second time, after a second, does interrupt them.

    Args:
        module: Its ``__file__``; that of a package is ``__init__.py``.
    """
    _whole.add(module.removesuffix("__init__.py"))


def listen() -> None:
    """Notice each of them from now on; nothing changes where one is ignored, or somebody else handles it."""
    for number, usual in _USUAL.items():
        if signal.getsignal(number) is usual:
            signal.signal(number, _handle)
    sys.unraisablehook = _heeding(sys.unraisablehook)


def abandon() -> None:
    """Note that a C++ library was left in the middle of its work: it aborts the process when it is unloaded."""
    global _abandoned
    _abandoned = True


def leave(code: int) -> NoReturn:
    """End the process with an exit code, without unloading libraries if one was abandoned."""
    if _abandoned:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def seen() -> bool:
    """Return whether there was one."""
    return bool(_seen)


def code() -> int:
    """Return the exit code of a process that one of them ended, as shells have it: 130 after Ctrl-C."""
    return 128 + (_seen or signal.SIGINT)


def ignore() -> None:
    """Pass over each further one: the process ends already, and its exit code is known."""
    for number in (*_USUAL, signal.SIGALRM):
        if signal.getsignal(number) in (_handle, _late):
            signal.signal(number, signal.SIG_IGN)


def _handle(number: int, frame: FrameType | None) -> None:
    global _seen, _last_s
    first, again = not _seen, _seen and time.monotonic() - _last_s < _TWICE_S
    _seen, _last_s = number, time.monotonic()
    if again or (first and _is_whole(frame) and _come_later()):
        return
    raise KeyboardInterrupt


def _late(_number: int, frame: FrameType | None) -> None:
    """Interrupt what could not be interrupted when the signal came."""
    if not (_is_whole(frame) and _come_later()):
        raise KeyboardInterrupt


# While a library is imported, its C++ code calls Python where it can take no exception: torch aborts the process then.
_IMPORTING = "<frozen importlib._bootstrap"


def _is_whole(frame: FrameType | None) -> bool:
    """Return whether a frame or one of its callers is not to be interrupted."""
    while frame is not None:
        if frame.f_code.co_filename.startswith((_IMPORTING, *_whole)):
            return True
        frame = frame.f_back
    return False


def _come_later() -> bool:
    """Have the interruption come a moment later; return False if the clock for that is somebody else's."""
    if signal.getsignal(signal.SIGALRM) not in (signal.SIG_DFL, _late):
        return False
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, _LATER_S)
    return True


def _heeding(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return a hook for exceptions that nobody can catch, as those in a finalizer: an interruption comes again."""

    def told(unraisable: Any) -> object:
        swallowed = issubclass(unraisable.exc_type, KeyboardInterrupt) and seen()
        return None if swallowed and _come_later() else hook(unraisable)

    return told
