"""The commands: each a verb's function, with its arguments and an option for each of its settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tlopt import trusted
from tlopt.cli import showing, terminal
from tlopt.cli.layout import GENERAL, Command, Option
from tlopt.cli.options import given, setting_options
from tlopt.errors import OutputExistsError
from tlopt.publishing import check_file
from tlopt.verbs import Argument, Verb


def make(verb: Verb) -> click.Command:
    """Make the command of a verb; imports the module of its function."""
    function = verb.function()
    text = inspect.getdoc(function) or ""
    return Command(
        verb.name.rpartition(" ")[2],
        params=[
            *map(_argument, verb.takes), *_first(verb), *setting_options(function), *_shown(verb), *common_options(),
        ],
        callback=functools.partial(_run, verb),
        help=prose(text),
        short_help=verb.summary,
        example=verb.example,
    )  # fmt: skip


def prose(docstring: str) -> str:
    """Return a docstring up to its first section, which is for readers of the code."""
    for section in ("Args:", "From Python:", "Returns:", "Raises:", "Yields:"):
        docstring = docstring.partition(f"\n{section}")[0]
    return docstring.replace("``", "").replace("`", "").strip()


def _run(verb: Verb, **values: Any) -> None:
    """Call a verb's function with what the command line gave, and show the result."""
    values.pop("debug")
    own = [values.pop("trust"), click.get_current_context().find_root().params.get("trust")]
    with (
        terminal.heard(verbose=values.pop("verbose"), quiet=values.pop("quiet")),
        trusted.trusting([module for text in own if text for module in text.split(",")]),
    ):
        function = verb.function()
        takes = [values.pop(argument.name) for argument in verb.takes]
        shown = {name: values.pop(name) for name in ("as_json", "csv", "markdown") if name in values}
        _check_tables(shown, [*takes, *values.values()])
        out, force = values.pop("out", None), values.pop("force", False)
        settings = given(values)
        if "force" in inspect.signature(function).parameters:
            settings["force"] = force
        result = function(*takes, *([out] if out is not None else []), **settings)
        if verb.gives == "path":
            showing.show_path(result, out)
        elif verb.gives == "report":
            showing.show_report(result, **shown)
        else:
            showing.show_lines(result, **shown)


def _check_tables(shown: Mapping[Any, Any], given: Sequence[Any]) -> None:
    """Refuse tables that would be written over what the command reads, before it reads it."""
    tables = [Path(shown[name]) for name in ("csv", "markdown") if shown.get(name)]
    items = [item for value in given for item in (value if isinstance(value, tuple) else (value,))]
    for table in tables:
        check_file(table, reads=[item for item in items if isinstance(item, str) and Path(item).exists()])
    if len({table.resolve() for table in tables}) < len(tables):
        raise OutputExistsError(f"--csv and --markdown name the same file, {tables[0]}.", hint="Name two files.")


def _argument(argument: Argument) -> click.Argument:
    return click.Argument(
        [argument.name],
        metavar=argument.shown or None,
        required=argument.required,
        nargs=-1 if argument.many else 1,
        type=click.Choice(argument.choices) if argument.choices else None,
        default=argument.default,
    )


def _first(verb: Verb) -> list[click.Option]:
    """Return the options that say where a result goes."""
    if verb.gives == "path":
        return [
            Option(["out", "-o", "--out"], required=True, metavar="DIR", help="Folder to make. [required]"),
            Option(["--force"], is_flag=True, help="Replace what tlopt made at --out."),
        ]
    if "force" in inspect.signature(verb.function()).parameters:
        return [Option(["--force"], is_flag=True, help="Replace what tlopt made before.")]
    return []


def _shown(verb: Verb) -> list[click.Option]:
    """Return the options that say how a result is shown."""
    if verb.gives == "path":
        return []
    options = [Option(["as_json", "--json"], is_flag=True, help="Print JSON.", section="Output")]
    if verb.gives == "report":
        for kind, word in (("csv", "CSV"), ("markdown", "Markdown")):
            text = f"Also write the rows to a {word} file."
            options.append(Option([f"--{kind}"], metavar="FILE", callback=_in_a_folder, help=text, section="Output"))
    return list(options)


def _in_a_folder(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse a file that could not be written, before anything is measured."""
    if value and Path(value).is_dir():
        raise click.BadParameter(f"{value} is a folder: name a file in it", context, parameter)
    if value and not Path(value).parent.is_dir():
        raise click.BadParameter(f"there is no folder {Path(value).parent}: make it first", context, parameter)
    return value


def common_options() -> list[click.Option]:
    """Return the options that every command has, and that may stand before its name, too."""
    return [
        Option(
            ["--trust"],
            metavar="MODULE,…",
            section=GENERAL,
            help="Modules of your own that artifacts and recipes may name and run.",
        ),
        Option(["-v", "--verbose"], count=True, help="Say what is done; -vv says more.", section=GENERAL),
        Option(["-q", "--quiet"], is_flag=True, help="Show errors only.", section=GENERAL),
        Option(["--debug"], is_flag=True, help="Show the traceback of an error.", section=GENERAL),
    ]
