"""A function's signature is the schema: options, ranges, help and defaults are read from it.

A setting is a keyword-only parameter annotated ``Annotated[type, Setting("Help.")]``. Command-line
options, recipe keys, validation and lineage all come from `parameters` and `check`.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tlopt import registry
from tlopt.errors import SettingError, suggestion


@dataclass(frozen=True)
class Setting:
    """What a setting means and which values it takes.

    Args:
        help: One sentence; the help text of the option.
        minimum: Smallest value allowed, inclusive.
        maximum: Largest value allowed, inclusive.
        plugins: Plugin folder whose file names are the choices ("quantizers").
        short: One-letter option name ("o").
        metavar: Placeholder in help texts.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    plugins: str = ""
    short: str = ""
    metavar: str = ""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One setting of a function, resolved from its signature.

    `item` is the element type of a tuple setting and None otherwise.
    """

    name: str
    kind: type
    default: Any
    setting: Setting
    choices: tuple[str, ...]
    optional: bool
    item: type | None

    @property
    def required(self) -> bool:
        """Whether the caller must give a value."""
        return self.default is inspect.Parameter.empty

    @property
    def option(self) -> str:
        """Name on the command line."""
        return self.name.replace("_", "-")

    @property
    def known(self) -> tuple[str, ...]:
        """The names this setting chooses from, or none if it is not a choice."""
        return registry.names(self.setting.plugins) if self.setting.plugins else self.choices


_SCALARS = (bool, int, float, str, Path)


@functools.cache
def parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Return the settings of a function: its keyword-only parameters that carry a `Setting`.

    A trailing underscore in a parameter's name, needed where the plain word is a Python keyword,
    is not part of the setting's name (`for_` is ``--for``).
    """
    function = inspect.unwrap(function)
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        annotation = hints[name]
        setting = next((a for a in getattr(annotation, "__metadata__", ()) if isinstance(a, Setting)), None)
        if setting is None:
            continue
        found.append(_resolve(name.rstrip("_"), annotation, parameter.default, setting))
    return tuple(found)


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
        name=name, kind=inner, default=default, setting=setting, choices=choices, optional=optional, item=item
    )


def check(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the complete settings for a call: defaults filled in, types and ranges checked.

    Keys are the function's own parameter names. Lists become tuples, whole numbers become floats
    where a float is wanted, strings become paths and numbers where those are wanted.

    Raises:
        SettingError: A name is unknown, a required value is missing, a value does not fit.
    """
    known = {parameter.name: parameter for parameter in parameters(function)}
    given = {name.rstrip("_").replace("-", "_"): value for name, value in values.items()}
    for name in given:
        if name not in known:
            where = getattr(function, "__name__", "this function")
            raise SettingError(f"{where} has no setting {name!r}.", hint=suggestion(name, known))
    names = [
        n
        for n, p in inspect.signature(inspect.unwrap(function)).parameters.items()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    result = {}
    for name in names:
        parameter = known.get(name.rstrip("_"))
        if parameter is None:
            continue
        if parameter.name in given:
            result[name] = _checked(parameter, given[parameter.name])
        elif parameter.required:
            raise SettingError(
                f"{getattr(function, '__name__', 'this function')} needs a value for {parameter.name}.",
                hint=f"{parameter.setting.help} Give --{parameter.option}.",
            )
        else:
            result[name] = parameter.default
    return result


def _checked(parameter: Parameter, value: Any) -> Any:
    if value is None and (parameter.optional or parameter.default is None):
        return None
    if parameter.kind is tuple:
        assert parameter.item is not None
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        elif not isinstance(value, list | tuple):
            value = [value]
        if not value:
            if parameter.default == ():
                return ()
            raise SettingError(f"{parameter.name} needs at least one value.", hint=parameter.setting.help)
        return tuple(_scalar(parameter, parameter.item, item) for item in value)
    return _scalar(parameter, parameter.kind, value)


def _scalar(parameter: Parameter, kind: type, value: Any) -> Any:
    converted = _converted(kind, value)
    if converted is None:
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "text")
        raise SettingError(f"{parameter.name} must be {wanted}, got {value!r}.", hint=parameter.setting.help)
    if parameter.known and converted not in parameter.known:
        raise SettingError(
            f"{parameter.name} cannot be {converted!r}.", hint=suggestion(str(converted), parameter.known)
        )
    low, high = parameter.setting.minimum, parameter.setting.maximum
    if kind in (int, float) and ((low is not None and converted < low) or (high is not None and converted > high)):
        raise SettingError(
            f"{parameter.name} must be {range_text(parameter.setting)}, got {converted:g}.",
            hint=parameter.setting.help,
        )
    return converted


def _converted(kind: type, value: Any) -> Any:
    """Return the value as the wanted type, or None where that would change its meaning."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if kind is Path:
        return Path(value) if isinstance(value, str | Path) else None
    if kind is str:
        return str(value) if isinstance(value, str | Path | int | float) else None
    try:
        number = kind(value)
    except (TypeError, ValueError):
        return None
    if kind is int and isinstance(value, float) and value != number:
        return None
    return number if math.isfinite(number) else None


def range_text(setting: Setting) -> str:
    """Return a setting's range in words, empty if it has none."""
    low, high = setting.minimum, setting.maximum
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    if low is not None:
        return f"at least {low:g}"
    if high is not None:
        return f"at most {high:g}"
    return ""
