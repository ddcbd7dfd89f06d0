"""The commands: each a verb's function, with its arguments and an option for each of its settings."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import click

from tlopt.cli.layout import GENERAL, Command, Option
from tlopt.cli.options import setting_options
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
    from tlopt.cli.running import run  # what runs commands is not read for their help

    run(verb, **values)


def _argument(argument: Argument) -> click.Argument:
    return click.Argument(
        [argument.name],
        metavar=argument.shown or None,
        required=argument.required,
        nargs=-1 if argument.many else 1,
        type=click.Choice(argument.choices) if argument.choices else None,
        # click 8.3 takes None for a value that was given.
        **({} if argument.default is None else {"default": argument.default}),
    )


def _first(verb: Verb) -> list[click.Option]:
    """Return the options that say where a result goes."""
    if verb.gives in ("path", "study"):
        needed = verb.gives == "path"
        text = "Folder to make." + " [required]" * needed
        return [
            Option(["out", "-o", "--out"], required=needed, metavar="DIR", help=text),
            Option(["--force"], is_flag=True, help="Replace what tlopt made at --out."),
        ]
    if "force" in inspect.signature(verb.function()).parameters:
        return [Option(["--force"], is_flag=True, help="Replace what tlopt made before.")]
    return []


def _shown(verb: Verb) -> list[click.Option]:
    """Return the options that say how a result is shown."""
    if verb.gives == "path":
        return []
    text = "Print JSON, one value a line." if verb.gives == "lines" else "Print JSON."
    options = [Option(["as_json", "--json"], is_flag=True, help=text, section="Output")]
    if verb.gives in ("report", "study"):
        for kind, word in (("csv", "CSV"), ("markdown", "Markdown")):
            text = f"Also write the rows to a {word} file."
            options.append(Option([f"--{kind}"], metavar="FILE", callback=_in_a_folder, help=text, section="Output"))
    return list(options)


def _in_a_folder(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse a file that could not be written, before anything is measured."""
    if value == "":
        raise click.BadParameter("the name of the file is an empty text", context, parameter)
    if value == "-":
        raise click.BadParameter("- is no name of a file: /dev/stdout is the output", context, parameter)
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
            help="Modules of your own that artifacts and recipes may name and run. Also engine:SHA256.",
        ),
        Option(["-v", "--verbose"], count=True, help="Say what is done; -vv says more.", section=GENERAL),
        Option(["-q", "--quiet"], is_flag=True, help="Show errors only.", section=GENERAL),
        Option(["--debug"], is_flag=True, help="Show the traceback of an error.", section=GENERAL),
    ]
