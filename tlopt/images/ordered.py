"""Work spread over threads, with the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

from tlopt.environment import cores

_DECODERS = 8  # threads: more of them only wait for Python's lock

T = TypeVar("T")
R = TypeVar("R")


def decoders() -> int:
    """Return how many threads decode images here."""
    return min(_DECODERS, max(2, cores()))


def ordered(
    function: Callable[[T], R], items: Sequence[T], *, workers: int | None = None, chunk: int = 1, ahead: int = 0
) -> Iterator[R]:
    """Yield ``function(item)`` in order, computed by threads a bounded number of items ahead.

    Args:
        function: Called in several threads at once.
        items: What it is called with.
        workers: Number of threads; None for one per core.
        chunk: Items that a thread takes at a time. Handing an item over costs some 30 microseconds,
            which is much for work that takes less.
        ahead: Items computed before they are asked for, at least four for each thread.
    """
    workers = workers or max(2, cores())
    if chunk > 1:
        chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
        work = ordered(lambda part: [function(item) for item in part], chunks, workers=workers, ahead=ahead // chunk)
        yield from chain.from_iterable(work)
        return
    ahead = max(ahead, 4 * workers)
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
