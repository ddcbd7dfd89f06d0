"""How a result is shown: whatever has `to_report` as a table, what comes one by one as lines."""

from __future__ import annotations

import contextlib
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
    with contextlib.ExitStack() as files:  # they are written, too, where the output is full
        for file, text in ((markdown, report.to_markdown), (csv, report.to_csv)):
            if file:
                files.callback(lambda file, text: write_whole(file, text(), special=True), file, text)
        terminal.show(report.to_json() if as_json else report.table(color=terminal.colored(), width=terminal.width()))
    report.check()


def show_path(result: object, out: str) -> None:
    """Show the folder that was made; a table of what is in it goes to stderr.

    Raises:
        StageError: Something that was asked for by name could not run.
    """
    if isinstance(result, Reported):
        click.echo(result.to_report().table(width=terminal.width()), err=True)
    terminal.show(shown(Path(out)))
    if isinstance(result, Reported):
        result.to_report().check()


@runtime_checkable
class Checked(Protocol):
    """Results that know whether one of them is missing."""

    def check(self) -> None:
        """Fail if one is."""


def show_lines(results: Iterable[Entry | str], *, as_json: bool, go_on: bool = False) -> None:
    """Show results as they come, each on a line of its own; then fail if one of them is missing.

    Args:
        results: What is shown.
        as_json: Show it as JSON.
        go_on: Take all results, though whoever reads them has gone: more is done than to show them.

    Raises:
        ImagesError: An image has no answer.
        ReaderGoneError: Whoever reads them has gone, and nothing else is done.
    """
    for result in terminal.made_aside(results):
        if as_json:
            text = json.dumps(result if isinstance(result, str) else result.to_dict())
        else:
            text = shown(result if isinstance(result, str) else result.line())
        terminal.show(text, go_on=go_on)
    if isinstance(results, Checked):
        results.check()
