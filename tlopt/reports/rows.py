"""Measured rows and the conditions they were measured under."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tlopt.errors import CheckError, StageError
from tlopt.reading import schema
from tlopt.reading.names import shown, shown_name
from tlopt.reports.columns import Column, drawn, head

Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """A table with what one must know to believe it.

    Args:
        title: What was measured.
        rows: Column name -> value, all rows with the columns they have; names carry the unit.
        conditions: Machine, threads, versions, settings: JSON types.
        notes: Sentences a reader should not miss: warnings first.
        breaches: The gates that were breached, one sentence each.
        not_run: What was asked for and could not run, one sentence each.
        details: Further tables by name, for JSON and the page, not for the terminal.
        more: Further tables for the terminal.
    """

    title: str
    rows: tuple[Mapping[str, Scalar], ...]
    conditions: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    breaches: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    more: tuple[Report, ...] = ()

    def to_report(self) -> Report:
        """Return the report itself: whatever is shown has this method."""
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """All column names, in the order they first appear."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    def check(self) -> None:
        """Fail if something that was asked for could not run, or a gate was breached.

        Raises:
            StageError: It could not.
            CheckError: It was.
        """
        if self.not_run:
            raise StageError(" ".join(self.not_run), hint="tlopt doctor lists what can run here.")
        if self.breaches:
            raise CheckError(" ".join(self.breaches))

    def table(self, *, color: bool = False, width: int = 0) -> str:
        """Return the table as aligned plain text, with the notes below it and no empty column.

        Args:
            color: Whether the heads stand out.
            width: Characters of a line, which the table and its notes keep to; 0 for no end.
        """
        # Why something did not run is a sentence: it stands below the table, not in a column.
        skipped = [f"{' on '.join(_names(row))}: not run. {row['skipped']}" for row in self.rows if row.get("skipped")]
        run = [row for row in self.rows if not row.get("skipped")]
        columns = [name for name in self.columns if any(row.get(name) not in (None, "") for row in run)]
        lines = drawn([self._column(name, run) for name in columns], width=width, color=color) if run else []
        below = [_wrapped(shown(note), width) for note in (*skipped, *self.notes)]
        whole = [shown(self.title), "", *lines, *([""] if below and run else []), *below]
        return "\n".join([*whole, *(f"\n{one.table(color=color, width=width)}" for one in self.more)])

    def _column(self, name: str, run: Sequence[Mapping[str, Scalar]]) -> Column:
        """Return a column of the rows that ran, as text."""
        values = [row.get(name) for row in run]
        leading = all(isinstance(value, str | int | None) for value in values)
        cells = tuple(text(value) for value in values)
        return Column(name=name, cells=cells, numbers=_numeric(self.rows, name), leading=leading)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "title": self.title,
            "rows": [dict(row) for row in self.rows],
            "notes": list(self.notes),
            "breaches": list(self.breaches),
            "conditions": dict(self.conditions),
            "details": dict(self.details),
        }

    def to_json(self) -> str:
        """Return the report as JSON, numbers at full precision."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, content: str) -> Report:
        """Rebuild from `to_json`.

        Raises:
            ValueError: The text is no report.
        """
        try:
            # A figure may be no number: a mean of no runs, say.
            return schema.convert(schema.parse_json(content, finite=False), cls, finite=False)
        except schema.SchemaError as error:
            raise ValueError(f"this is not a report of tlopt: {error}") from error

    def to_csv(self) -> str:
        """Return the rows as CSV, numbers at full precision."""
        target = io.StringIO()
        writer = csv.DictWriter(target, self.columns, lineterminator="\n")
        writer.writeheader()
        # A name of a folder may be no UTF-8, and the file could not be written.
        writer.writerows({name: text(v) if isinstance(v, str) else v for name, v in row.items()} for row in self.rows)
        return target.getvalue()

    def to_markdown(self) -> str:
        """Return the rows as a Markdown table, with the notes below it."""
        columns = self.columns
        lines = [
            "| " + " | ".join(head(name) for name in columns) + " |",
            "|" + "|".join("---:" if _numeric(self.rows, name) else "---" for name in columns) + "|",
        ]
        for row in self.rows:
            lines.append("| " + " | ".join(text(row.get(name)).replace("|", "\\|") for name in columns) + " |")
        return "\n".join([*lines, *(f"\n{shown(note)}" for note in self.notes)]) + "\n"


def _wrapped(note: str, width: int) -> str:
    """Return a note in lines of at most so many characters, all but the first indented."""
    if not width:
        return note
    return textwrap.fill(note, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _names(row: Mapping[str, Scalar]) -> list[str]:
    """Return what a row is about."""
    return [str(row[name]) for name in ("artifact", "backend") if row.get(name)]


def text(value: Scalar) -> str:
    """Return a value as a person reads it: numbers with the digits that carry meaning."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return shown_name(value)


def number(value: float) -> str:
    """Return a number with about four digits and never in scientific notation above 1e-4."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.1f}"
    if size >= 10:
        return f"{value:.2f}"
    if size >= 1e-2:
        return f"{value:.3f}"
    return f"{value:.2g}"


def _numeric(rows: Sequence[Mapping[str, Scalar]], name: str) -> bool:
    """Return whether a column holds numbers only."""
    values = [row.get(name) for row in rows if row.get(name) is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
