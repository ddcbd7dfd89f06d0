"""Progress of long work: the library reports it, whoever called decides how to show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")

# Level of what is logged for every user to read, and is no warning: what a command assumed.
NOTICE = 25


class Bar(Protocol):
    """What a display of progress understands."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by `steps`; `note` is a short text beside the bar ("loss 0.31")."""


class Display(Protocol):
    """Opens a bar for a task of a known length."""

    def __call__(self, label: str, total: int) -> AbstractContextManager[Bar]:
        """Return the bar; it closes with the context."""


class _Silent:
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Do nothing."""


@contextmanager
def _silent(label: str, total: int) -> Iterator[Bar]:  # noqa: ARG001 - a display that shows nothing
    yield _Silent()


display: ContextVar[Display] = ContextVar("display", default=_silent)


@contextmanager
def hidden() -> Iterator[None]:
    """Show no bar that is opened inside the block: what called it has one for the whole."""
    token = display.set(_silent)
    try:
        yield
    finally:
        display.reset(token)


def bar(label: str, total: int) -> AbstractContextManager[Bar]:
    """Open a progress bar on the current display; silent unless a caller has set one."""
    return display.get()(label, total)


def track(items: Iterable[T], *, label: str, total: int) -> Iterator[T]:
    """Yield the items and report progress after each."""
    with bar(label, total) as shown:
        for item in items:
            yield item
            shown.advance()
