"""How help is laid out: options under headings in two columns, those that matter first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import click

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_COLUMN = 26  # characters of an option's name; a longer one gets a line of its own
_FIRST = "Options"
_GLUE = "\N{NO-BREAK SPACE}"  # between words that stay on one line
GENERAL = "General"  # what every command has
_ORDER = (  # after the first one and those that one command alone has
    "Training", "Regularization", "Augmentation", "Distillation", "Quantization", "Model", "Data", "Output", GENERAL,
)  # fmt: skip


class Option(click.Option):
    """An option that belongs under a heading.

    Args:
        section: The heading; empty for the first one.
        negative: Whether it has a form that switches it off, ``--no-NAME``.
    """

    def __init__(self, *args: Any, section: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.section = section

    @property
    def label(self) -> str:
        """Its names and what it takes, as the help's first column shows them."""
        names = sorted(self.opts, key=len)
        if self.secondary_opts:
            names = [f"--[no-]{name.removeprefix('--')}" for name in names if name.startswith("--")]
        text = ", ".join(names)
        return text if self.is_flag or self.count else f"{text} {self.metavar or 'TEXT'}"


class Command(click.Command):
    """A command whose options stand under headings, with an example below them.

    Args:
        example: A command line, shown as it is.
    """

    def __init__(self, *args: Any, example: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.context_settings = dict(SETTINGS)
        self.example = example

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings."""
        options(self.get_params(ctx), formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the example, broken between words as a shell takes it."""
        with formatter.section("Example"):
            formatter.write(shell(self.example, formatter.width - formatter.current_indent, formatter.current_indent))


def options(parameters: Iterable[click.Parameter], formatter: click.HelpFormatter) -> None:
    """Write options under their headings, the first heading first; click's own are general ones."""
    sections: dict[str, list[tuple[str, str]]] = {_FIRST: []}
    for parameter in parameters:
        if isinstance(parameter, click.Option) and parameter.hidden:
            continue
        if isinstance(parameter, Option):
            sections.setdefault(parameter.section or _FIRST, []).append((parameter.label, parameter.help or ""))
        elif isinstance(parameter, click.Option):
            label = ", ".join(sorted(parameter.opts, key=len))
            sections.setdefault(GENERAL, []).append((label, parameter.help or ""))
    for heading in sorted(sections, key=_place):
        if rows := sections[heading]:
            with formatter.section(heading):
                two_columns(formatter, rows)


def _place(heading: str) -> int:
    return _ORDER.index(heading) + 2 if heading in _ORDER else heading != _FIRST


def two_columns(formatter: click.HelpFormatter, rows: Iterable[tuple[str, str]], column: int = _COLUMN) -> None:
    """Write names and texts side by side, texts wrapped at the formatter's width."""
    indent = " " * formatter.current_indent
    width = max(20, formatter.width - formatter.current_indent - column - 2)
    for name, text in rows:
        lines = textwrap.wrap(_glued(text), width, break_long_words=False, break_on_hyphens=False)
        first, *rest = [line.replace(_GLUE, " ") for line in lines] or [""]
        if len(name) > column:
            formatter.write(f"{indent}{name}\n")
            name = ""
        formatter.write(f"{indent}{name:<{column}}  {first}".rstrip() + "\n")
        for line in rest:
            formatter.write(f"{indent}{'':<{column}}  {line}\n")


def _glued(text: str) -> str:
    """Return a text in which each note in the brackets at its end stays on one line, but for lists of names."""
    said, bracket, notes = text.rpartition(" [")
    glued = "; ".join(note if "|" in note else note.replace(" ", _GLUE) for note in notes.split("; "))
    return f"{said}{bracket}{glued}" if bracket else text


def shell(command: str, width: int, indent: int) -> str:
    """Return a command line on as many lines as it needs, each but the last ended by a backslash."""
    lines = textwrap.wrap(command, width - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return textwrap.indent(" \\\n".join(lines), " " * indent) + "\n"
