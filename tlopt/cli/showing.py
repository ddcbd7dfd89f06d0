"""How a result is shown: whatever has `to_report` as a table, what comes one by one as lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import click

from tlopt.cli import terminal
from tlopt.publishing import write_whole
from tlopt.reading.names import shown

if TYPE_CHECKING:
    from tlopt.reports import Report


@runtime_checkable
class Reported(Protocol):
    """A result that can be read as a table."""

    def to_report(self) -> Report:
        """Return it as a report."""


@runtime_checkable
class Entry(Protocol):
    """A result of many that come one by one."""

    def line(self) -> str:
        """Return it as text."""

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON types."""


def show_report(result: Reported, *, as_json: bool, csv: str | None = None, markdown: str | None = None) -> None:
    """Show a report and write it where asked; then fail if it carries a failure.

    Raises:
        StageError: Something that was asked for by name could not run.
        CheckError: A gate was breached.
    """
    report = result.to_report()
    click.echo(report.to_json() if as_json else report.table(color=terminal.colored(), width=terminal.width()))
    if csv:
        write_whole(csv, report.to_csv(), special=True)
    if markdown:
        write_whole(markdown, report.to_markdown(), special=True)
    report.check()


def show_path(result: object, out: str) -> None:
    """Show the folder that was made; a table of what is in it goes to stderr.

    Raises:
        StageError: Something that was asked for by name could not run.
    """
    if isinstance(result, Reported):
        click.echo(result.to_report().table(width=terminal.width()), err=True)
    click.echo(shown(Path(out)))
    if isinstance(result, Reported):
        result.to_report().check()


@runtime_checkable
class Checked(Protocol):
    """Results that know whether one of them is missing."""

    def check(self) -> None:
        """Fail if one is."""


def show_lines(results: Iterable[Entry | str], *, as_json: bool) -> None:
    """Show results as they come, each on a line of its own; then fail if one of them is missing.

    Raises:
        ImagesError: An image has no answer.
    """
    for result in terminal.made_aside(results):
        if as_json:
            click.echo(json.dumps(result if isinstance(result, str) else result.to_dict()))
        else:
            click.echo(shown(result if isinstance(result, str) else result.line()))
    if isinstance(results, Checked):
        results.check()
