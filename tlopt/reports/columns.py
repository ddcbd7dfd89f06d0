"""Draw a table as plain text that fits into the width of a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

_GAP = 2
_LONG = 30  # characters from which a text is a sentence, which may be wrapped

_WRITTEN = {
    "mb": "MB",
    "gb": "GB",
    "w": "W",
    "mj": "mJ",
    "db": "dB",
    "cpu": "CPU",
    "gpu": "GPU",
    "f1": "F1",
    "mend": "repair",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table as text.

    Args:
        name: Name of the column in the rows, such as "p50_ms".
        cells: One text a row.
        numbers: Whether it holds numbers, which are aligned at the right.
        leading: Whether it may say what a row is about: a text or a whole number.
    """

    name: str
    cells: tuple[str, ...]
    numbers: bool
    leading: bool

    @property
    def head(self) -> str:
        """Name as people write it, with the symbol of its unit."""
        return head(self.name)

    @property
    def width(self) -> int:
        """Characters of the widest cell."""
        return max(len(self.head), *map(len, self.cells), 0)


def head(name: str) -> str:
    """Return the name of a column as people write it: "host_mb" is "host MB"."""
    return " ".join(_WRITTEN.get(word, word) for word in name.split("_"))


def drawn(columns: Sequence[Column], *, width: int = 0, color: bool = False) -> list[str]:
    """Return the lines of a table.

    Where the table is wider than `width`, long texts are wrapped in one last column. A table of
    numbers is split into several, one below the other; each repeats what its rows are about.

    Args:
        columns: The columns, all with the same number of cells.
        width: Characters of a line; 0 for no end.
        color: Whether the heads stand out.
    """
    if not width or _total(columns) <= width:
        return _block(columns, color)
    long = [column for column in columns[1:] if not column.numbers and column.width > _LONG]
    short = [column for column in columns if column not in long]
    room = width - _total(short) - _GAP
    if long and room >= _LONG:
        return _stacked(short, long, room, color)
    blocks = [_block(block, color) for block in _blocks(columns, width)]
    return [line for number, block in enumerate(blocks) for line in ([""] if number else []) + block]


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width + _GAP for column in columns) - _GAP


def _block(columns: Sequence[Column], color: bool) -> list[str]:
    def line(texts: Sequence[str]) -> str:
        pairs = zip(texts, columns, strict=True)
        padded = (text.rjust(c.width) if c.numbers else text.ljust(c.width) for text, c in pairs)
        return (" " * _GAP).join(padded).rstrip()

    heads = line([column.head for column in columns])
    rows = zip(*(column.cells for column in columns), strict=True)
    rule = (" " * _GAP).join("─" * column.width for column in columns)
    return [f"\033[1m{heads}\033[0m" if color else heads, rule, *(line(row) for row in rows)]


def _stacked(short: Sequence[Column], long: Sequence[Column], room: int, color: bool) -> list[str]:
    """Return the short columns with the texts of the long ones wrapped beside them, the later ones with their names."""
    table = _block(short, color=False)
    indent = max(map(len, table)) + _GAP
    first = table[0].ljust(indent) + long[0].head
    lines = [f"\033[1m{first}\033[0m" if color else first, table[1] + " " * _GAP + "─" * room]
    for number, row in enumerate(table[2:]):
        texts = [(column.head if place else "", column.cells[number]) for place, column in enumerate(long)]
        wrapped = [line for name, text in texts if text for line in _wrapped(f"{name}: {text}" if name else text, room)]
        beside = [row.ljust(indent), *[" " * indent] * (len(wrapped) - 1)]
        lines += [(a + b).rstrip() for a, b in zip(beside, wrapped or [""], strict=True)]
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _blocks(columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Return the columns in groups that fit, each after the columns that say what a row is about."""
    until = next((place for place, column in enumerate(columns) if not column.leading), len(columns))
    key = list(columns[: max(1, until)])
    if len(key) == len(columns) or _total(key) > width * 2 // 3:  # nothing would be left for the figures
        return [list(columns)]
    blocks = [[*key]]
    for column in columns[len(key) :]:
        if len(blocks[-1]) > len(key) and _total([*blocks[-1], column]) > width:
            blocks.append([*key])
        blocks[-1].append(column)
    return blocks
