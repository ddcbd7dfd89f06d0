"""Click options made from the signature of a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tlopt.settings import Parameter, moved, parameters, range_text

_TYPES: dict[type, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT, str: click.STRING, Path: click.STRING}


def setting_options(function: Callable[..., Any], *, without: tuple[str, ...] = ()) -> list[click.Option]:
    """Return one option for each setting of a function, except those named.

    Types and help come from the signature; values are checked by the function itself, so that an
    error reads the same from the command line, a recipe and Python.
    """
    options = [_option(parameter) for parameter in parameters(function) if parameter.name not in without]
    # Known with a value and without one, so that whoever gives it is told where it is now.
    former = [
        click.Option([name, f"--{name.replace('_', '-')}"], hidden=True, is_flag=False, flag_value="on")
        for name in moved(function)
    ]
    return options + former


def _option(parameter: Parameter) -> click.Option:
    setting = parameter.setting
    names = [parameter.name, f"--{parameter.option}", *([f"-{setting.short}"] if setting.short else [])]
    if parameter.kind is bool:
        if parameter.default is True:
            names[1] = f"--{parameter.option}/--no-{parameter.option}"
        return click.Option(names, is_flag=True, default=None, help=setting.help)
    kind: click.ParamType[Any]
    if parameter.kind is tuple:
        kind, metavar = click.STRING, setting.metavar or f"{_placeholder(parameter)},…"
    else:
        kind, metavar = _TYPES[parameter.kind], setting.metavar or _placeholder(parameter)
    return click.Option(names, type=kind, default=None, metavar=metavar, help=_help(parameter))


def _placeholder(parameter: Parameter) -> str:
    if parameter.choices:
        return "|".join(parameter.choices) if len(parameter.choices) <= 6 else "NAME"
    if parameter.setting.plugins:
        return "NAME"
    kind = parameter.item or parameter.kind
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def _help(parameter: Parameter) -> str:
    notes = []
    if parameter.setting.plugins or len(parameter.choices) > 6:
        notes.append(", ".join(parameter.known))
    if span := range_text(parameter.setting):
        notes.append(span)
    default = parameter.default
    if parameter.required:
        notes.append("required")
    elif default not in (None, "", ()) and default is not inspect.Parameter.empty:
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        notes.append(f"default {shown:g}" if isinstance(shown, float) else f"default {shown}")
    return f"{parameter.setting.help} [{'; '.join(notes)}]" if notes else parameter.setting.help


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given on the command line, without those left to their defaults."""
    return {name: value for name, value in values.items() if value is not None}
