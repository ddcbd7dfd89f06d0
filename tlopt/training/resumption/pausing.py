"""Training that stops between two epochs because its caller says so: for good, or to go on later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from tlopt.errors import TloptError

Word = Literal["go on", "pause", "finish"]
Epochs = Sequence[dict[str, float]]

_asked: ContextVar[Callable[[Epochs], Word] | None] = ContextVar("asked_between_epochs", default=None)


class PausedError(TloptError):
    """A training stopped between two epochs; ``resume`` goes on from its checkpoint.

    Args:
        epochs: The record of each epoch so far.
    """

    def __init__(self, epochs: Epochs) -> None:
        super().__init__(f"The training stopped after epoch {len(epochs)}.", hint="Go on with --resume.")
        self.epochs = list(epochs)


@contextmanager
def asking(question: Callable[[Epochs], Word]) -> Iterator[None]:
    """Ask after each epoch of a training in the block whether it goes on.

    Args:
        question: Is given the record of each epoch so far. "pause" raises `PausedError`. "finish" ends the training
            as if its last epoch were over.
    """
    token = _asked.set(question)
    try:
        yield
    finally:
        _asked.reset(token)


def goes_on(epochs: Epochs) -> bool:
    """Return whether a training goes on after its last epoch so far, whose checkpoint is written.

    Raises:
        PausedError: It stops, to go on later.
    """
    question = _asked.get()
    word = question(epochs) if question is not None and epochs else "go on"
    if word == "pause":
        raise PausedError(epochs)
    return word == "go on"
