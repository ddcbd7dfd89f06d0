"""Reading the settings of a function from its signature, and putting them back into its arguments."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from tlopt.settings.declaring import Only, Parameter, Setting, Without

P = ParamSpec("P")
R = TypeVar("R")

_SCALARS = (bool, int, float, str, Path)
KIND = "kind"  # the parameter of a rule that gets the kind of the source: of an artifact, "images", "file" or "nothing"


@functools.cache
def parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Return the settings of a function: its keyword-only parameters that carry a `Setting`, records expanded.

    A trailing underscore in a parameter's name, needed where the plain word is a Python keyword,
    is not part of the setting's name (`for_` is ``--for``).
    """
    found = []
    for name, (annotation, default) in _keyword_only(function).items():
        if (setting := _setting(annotation)) is not None:
            found.append(_resolve(name, annotation, default, setting))
        elif (record := _record(annotation)) is not None:
            found += _expanded(name, record, annotation, default)
    names = [parameter.name for parameter in found]
    assert len(set(names)) == len(names), f"{function}: a setting is declared twice"
    return tuple(found)


def moved(function: Callable[..., Any]) -> Mapping[str, str]:
    """Return the settings that a function had in earlier versions -> the hint that says where they are now."""
    found: Mapping[str, str] = inspect.unwrap(function).__dict__.get("moved", {})
    return found


def formerly(**where: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Say where settings are now that a function had in earlier versions: name -> hint."""

    def told(body: Callable[P, R]) -> Callable[P, R]:
        body.__dict__["moved"] = where
        return body

    return told


def ruled(*rules: Callable[..., object]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Say which rules hold between the settings of a function; they are asked wherever the settings are checked.

    Args:
        rules: Functions of some of its keyword-only parameters, by their names. Each raises the error if it is broken.
            A rule with the parameter `KIND` is asked when it is known what the function will work on.
    """

    def told(body: Callable[P, R]) -> Callable[P, R]:
        body.__dict__["rules"] = rules
        return body

    return told


def rules(function: Callable[..., Any], *, of_kind: bool) -> tuple[Callable[..., object], ...]:
    """Return the rules of a function: those about what it works on, or the others."""
    found: tuple[Callable[..., object], ...] = inspect.unwrap(function).__dict__.get("rules", ())
    return tuple(rule for rule in found if (KIND in inspect.signature(rule).parameters) == of_kind)


def _keyword_only(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return name -> (annotation, default) of a function's keyword-only parameters."""
    function = inspect.unwrap(function)
    hints = typing.get_type_hints(function, include_extras=True)
    return {
        name: (hints.get(name), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _setting(annotation: Any) -> Setting | None:
    return next((a for a in getattr(annotation, "__metadata__", ()) if isinstance(a, Setting)), None)


def _record(annotation: Any) -> type[Any] | None:
    """Return the dataclass that a parameter is annotated with, or None."""
    inner = typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation
    return inner if isinstance(inner, type) and is_dataclass(inner) else None


def _expanded(parameter: str, record: type[Any], annotation: Any, default: Any) -> list[Parameter]:
    """Return the settings of a record; their defaults are those of the parameter's own default, if it has one."""
    about = getattr(annotation, "__metadata__", ())
    left_out = {name for note in about if isinstance(note, Without) for name in note.names}
    for note in about:
        left_out |= {field.name for field in fields(record)} - set(note.names) if isinstance(note, Only) else set()
    hints = typing.get_type_hints(record, include_extras=True)
    found = []
    for field in fields(record):
        setting = _setting(hints[field.name])
        if setting is None or field.name in left_out:
            continue
        if default is not inspect.Parameter.empty:
            value = getattr(default, field.name)
        else:
            value = inspect.Parameter.empty if field.default is MISSING else field.default
        found.append(replace(_resolve(field.name, hints[field.name], value, setting), record=parameter))
    return found


def _resolve(name: str, annotation: Any, default: Any, setting: Setting) -> Parameter:
    inner = typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation
    optional = False
    if typing.get_origin(inner) in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(inner) if m is not type(None)]
        optional = len(members) < len(typing.get_args(inner))
        assert len(members) == 1, f"setting {name}: only X | None is supported"
        inner = members[0]
    choices: tuple[str, ...] = ()
    item: type | None = None
    if typing.get_origin(inner) is Literal:
        choices, inner = typing.get_args(inner), str
    elif typing.get_origin(inner) is tuple:
        item, inner = typing.get_args(inner)[0], tuple
        if typing.get_origin(item) is Literal:
            choices, item = typing.get_args(item), str
    assert inner is tuple or inner in _SCALARS, f"setting {name}: {inner} is not supported"
    return Parameter(
        name=name.rstrip("_"),
        attribute=name,
        kind=inner,
        default=default,
        setting=setting,
        choices=choices,
        optional=optional,
        item=item,
    )


def arguments(function: Callable[..., Any], checked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that a function takes: checked settings, those of records put together.

    Args:
        function: Whose parameters they are.
        checked: What `check` returned.
    """
    known = parameters(function)
    result = {p.attribute: checked[p.attribute] for p in known if not p.record}
    for name, (annotation, default) in _keyword_only(function).items():
        if _setting(annotation) is None and (record := _record(annotation)) is not None:
            values = {p.attribute: checked[p.attribute] for p in known if p.record == name}
            result[name] = record(**values) if default is inspect.Parameter.empty else replace(default, **values)
    return result


def flat_signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature as its callers see it: the fields of records in the place of the records."""
    expanded = {parameter.record for parameter in parameters(function)} - {""}
    flat: list[inspect.Parameter] = []
    signature = inspect.signature(inspect.unwrap(function))
    for name, parameter in signature.parameters.items():
        if name not in expanded:
            flat.append(parameter)
            continue
        flat += [
            inspect.Parameter(p.attribute, inspect.Parameter.KEYWORD_ONLY, default=p.default, annotation=p.kind)
            for p in parameters(function)
            if p.record == name
        ]
    return signature.replace(parameters=flat)
