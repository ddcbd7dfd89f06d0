"""How a file shows that tlopt wrote it: a table by its first columns, a page and a picture by a mark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tlopt.reading.files import open_regular

CREATOR = "tlopt"  # what pages and pictures name as the program that wrote them
_BEGINNING = 1 << 16  # bytes of a file that are looked at


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file that a command writes; it replaces no other one.

    Args:
        what: What messages call it.
        begins: The texts that such a file may begin with.
        holds: Texts of which its beginning holds one.
    """

    what: str
    begins: tuple[str, ...]
    holds: tuple[str, ...] = ("",)

    def may_replace(self, file: Path) -> bool:
        """Return whether an existing file is of this kind, or empty; one that cannot be read is not."""
        try:
            with open_regular(file) as opened:
                beginning = opened.read(_BEGINNING)
        except OSError:
            return False
        text = beginning.decode(errors="replace")
        if len(beginning) < _BEGINNING and not text.strip():
            return True
        return text.startswith(self.begins) and any(mark in text for mark in self.holds)


PAGE = Kind(
    what="a page of tlopt",
    begins=("<!DOCTYPE html>",),
    # Pages of 0.1.0 name no program, but have these colours.
    holds=(f'<meta name="generator" content="{CREATOR}">', "--paper: #fbfbfa; --card: #fff; --ink: #1c2024;"),
)
PICTURE = Kind(what="a picture of tlopt", begins=("<?xml",), holds=(f"<dc:title>{CREATOR}</dc:title>",))
