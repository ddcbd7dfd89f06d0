"""Click options made from the signature of a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tlopt.cli.layout import Option
from tlopt.settings import Parameter, moved, parameters, range_text

_TYPES: dict[type, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT, str: click.STRING, Path: click.STRING}


def setting_options(function: Callable[..., Any]) -> list[Option]:
    """Return one option for each setting of a function, those that most people set first.

    Types and help come from the signature; values are checked by the function itself, so that an
    error reads the same from the command line, a recipe and Python.
    """
    known = sorted(parameters(function), key=lambda one: not one.common)
    # What has moved is known with a value and without one, so that whoever gives it is told where it is now.
    former = [
        Option([name, f"--{name.replace('_', '-')}"], hidden=True, is_flag=False, flag_value="on")
        for name in moved(function)
    ]
    return [*map(_option, known), *former]


def _option(parameter: Parameter) -> Option:
    setting = parameter.setting
    names = [parameter.name, f"--{parameter.option}", *([f"-{setting.short}"] if setting.short else [])]
    section = "" if parameter.common else parameter.group
    if parameter.kind is bool:
        if parameter.default is not False:  # None leaves it to the command, which can be told either way
            names[1] = f"--{parameter.option}/--no-{parameter.option}"
        return Option(names, is_flag=True, default=None, help=_help(parameter), section=section)
    kind = click.STRING if parameter.kind is tuple else _TYPES[parameter.kind]
    return Option(
        names, type=kind, default=None, metavar=_placeholder(parameter), help=_help(parameter), section=section
    )


def _placeholder(parameter: Parameter) -> str:
    if parameter.setting.metavar:
        return parameter.setting.metavar
    one = _placeholder_of_one(parameter)
    return f"{one},…" if parameter.kind is tuple else one


def _placeholder_of_one(parameter: Parameter) -> str:
    if parameter.known:
        return "NAME"
    kind = parameter.item or parameter.kind
    if parameter.setting.output:
        return "FILE"
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def _help(parameter: Parameter) -> str:
    """Return an option's text with what it takes and its default in brackets behind it."""
    notes = []
    if parameter.known:
        notes.append(" | ".join(parameter.known))
    if span := range_text(parameter.setting):
        notes.append(span)
    if parameter.required:
        notes.append("required")
    elif shown := _default(parameter.default):
        notes.append(f"default {shown}")
    return f"{parameter.setting.help} [{'; '.join(notes)}]" if notes else parameter.setting.help


def _default(value: Any) -> str:
    """Return a default as text; empty if there is none to show."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value in (None, "", ()):
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given on the command line, without those left to their defaults."""
    return {name: value for name, value in values.items() if value is not None}
