"""Which of some rows no other row beats."""

from __future__ import annotations

from collections.abc import Sequence


def front(rows: Sequence[Sequence[float]]) -> list[bool]:
    """Tell of each row whether no other is at least as good in every column and better in one.

    Args:
        rows: One number a column, all rows with the same columns. The smaller, the better. A row with a number that
            is not a number is never on the front.
    """
    return [all(value == value for value in one) and not any(_beats(other, one) for other in rows) for one in rows]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))
