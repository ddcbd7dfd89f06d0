"""How the tables that a command writes begin: only such a file is replaced by the next one."""

from __future__ import annotations

from collections.abc import Sequence

from tlopt.publishing import Kind
from tlopt.reports.columns import head


def table_kinds(what: str, firsts: Sequence[Sequence[str]]) -> dict[str, Kind]:
    """Return what a command writes as "csv" and as "markdown".

    Args:
        what: The command.
        firsts: The first columns of each of its tables.
    """
    return {
        "csv": Kind(what=f"a table of {what}", begins=tuple(",".join(first) for first in firsts)),
        "markdown": Kind(
            what=f"a table of {what}",
            # A table without rows has no columns.
            begins=("|  |\n||\n", *("| " + " | ".join(map(head, first)) + " |" for first in firsts)),
        ),
    }
