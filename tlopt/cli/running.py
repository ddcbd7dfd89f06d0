"""Running a command: what the command line gave becomes a call, and its result is shown."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tlopt import trusted
from tlopt.artifact import images_of
from tlopt.cli import showing, terminal
from tlopt.cli.options import given
from tlopt.errors import OutputExistsError, SettingError, StageError
from tlopt.images import intrusion
from tlopt.publishing import Kind
from tlopt.reading.files import real_path
from tlopt.reports import table_kinds
from tlopt.settings import parameters
from tlopt.verbs import Verb


def run(verb: Verb, **values: Any) -> None:
    """Call a verb's function with what the command line gave, and show the result.

    Raises:
        StageError: Something else than the reader of the output has gone: a process, or the reader of a file.
        TloptError: What the function raises.
    """
    try:
        _run(verb, **values)
    except BrokenPipeError as error:
        what = error.filename or "A pipe"
        raise StageError(f"{what} cannot be written: whoever read it has gone.") from error


def _run(verb: Verb, **values: Any) -> None:
    values.pop("debug")
    own = [values.pop("trust"), click.get_current_context().find_root().params.get("trust")]
    with (
        terminal.heard(verbose=values.pop("verbose"), quiet=values.pop("quiet")),
        trusted.trusting([module for text in own if text for module in text.split(",")]),
    ):
        function = verb.function()
        takes = [values.pop(argument.name) for argument in verb.takes]
        shown = {name: values.pop(name) for name in ("as_json", "csv", "markdown") if name in values}
        options = {one.name: one.setting.output for one in parameters(function) if one.setting.output is not None}
        options |= table_kinds(f"tlopt {verb.name}", verb.tables)
        named = {name: file for name, file in (*shown.items(), *values.items()) if file and name in options}
        _check_files(
            [(file, options[name]) for name, file in named.items()],
            [*takes, *(value for name, value in values.items() if name not in options)],
        )
        _refuse_same(named, {name: value for name, value in values.items() if name not in options})
        out, force = values.pop("out", None), values.pop("force", False)
        _refuse_empty([*zip((argument.label for argument in verb.takes), takes, strict=True), ("--out", out)])
        settings = given(values)
        if "force" in inspect.signature(function).parameters:
            settings["force"] = force
        with terminal.aside():
            result = function(*takes, *([out] if out is not None else []), **settings)
        if verb.gives == "path":
            showing.show_path(result, out)
        elif verb.gives in ("report", "study"):
            showing.show_report(result, **shown)
        else:
            showing.show_lines(result, **shown, go_on=verb.group == "Make")


def _refuse_empty(given: Iterable[tuple[str, Any]]) -> None:
    """Refuse an empty text where a path is wanted: it would be the current folder."""
    for name, value in given:
        if "" in (value if isinstance(value, tuple) else (value,)):
            raise SettingError(f"{name} is an empty text.", hint="Is it a variable of the shell that is not set?")


def _check_files(files: Sequence[tuple[str, Kind]], given: Sequence[Any]) -> None:
    """Refuse files that cannot be written, or not without a loss of what the command reads, before it reads it.

    Args:
        files: Each with what is written there.
        given: What else the command line gave.
    """
    items = [item for value in given for item in (value if isinstance(value, tuple) else (value,))]
    reads = [Path(item) for item in items if isinstance(item, str) and os.path.exists(item)] if files else []  # noqa: PTH110
    # A command reads the images of its artifact, too, though nobody named them: they may be a manifest.
    reads += [images for read in reads if (images := images_of(read)) is not None]
    for file, makes in files:
        intrusion.check_file(file, makes=makes, reads=reads)


def _refuse_same(files: Mapping[str, str], others: Mapping[str, Any]) -> None:
    """Refuse a file to write whose place another option names, too: one would be written over the other.

    Args:
        files: Name of an option -> the file that it names.
        others: Name of another option -> its value, which may be a place, too.
    """
    options: dict[Path, str] = {}
    for name, file in files.items():
        if (other := options.setdefault(real_path(file), name)) != name:
            raise OutputExistsError(f"--{other} and --{name} name the same file, {file}.", hint="Name two files.")
    places = {name: value.partition("#")[0] for name, value in others.items() if isinstance(value, str)}  # FILE#STUDY
    for name, place in places.items():
        if place and (other := options.get(real_path(place), "")):
            raise OutputExistsError(f"--{other} and --{name} both name {place}.", hint="Name two places.")
