"""A function's signature is the schema: options, ranges, help and defaults are read from it.

A setting is a keyword-only parameter annotated ``Annotated[type, Setting("Help.")]``. Settings that
several functions share, or that travel together, are fields of a frozen dataclass annotated alike, a
record: a keyword-only parameter of that type stands for all of its fields. Outside of the function
settings are always flat: command-line options, recipe keys, keyword arguments, validation and lineage
come from `parameters` and `check`; `arguments` puts checked settings into the records again.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from tlopt import registry
from tlopt.errors import SettingError, suggestion

P = ParamSpec("P")
R = TypeVar("R")


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
        group: Heading under which the help lists it ("Augmentation"); empty for the first one.
        common: Whether it is one of the few that most people set; the help shows those first.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    plugins: str = ""
    short: str = ""
    metavar: str = ""
    group: str = ""
    common: bool = False


@dataclass(frozen=True)
class Without:
    """Names of a record's fields that are no settings of this function: they keep their defaults.

    ``training: Annotated[Hyperparameters, Without("compile")] = Hyperparameters()``
    """

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


@dataclass(frozen=True)
class Only:
    """Names of a record's fields that are settings of this function; the others keep their defaults."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One setting of a function, resolved from its signature.

    Attributes:
        name: What the user calls it.
        item: Element type of a tuple setting, None for any other kind.
        attribute: Its name in the signature or the record.
        record: The keyword-only parameter whose record holds it; empty if the function takes it itself.
    """

    name: str
    kind: type
    default: Any
    setting: Setting
    choices: tuple[str, ...]
    optional: bool
    item: type | None
    attribute: str
    record: str = ""

    @property
    def group(self) -> str:
        """Heading under which the help lists it; empty for the first one."""
        return self.setting.group

    @property
    def common(self) -> bool:
        """Whether it is one of the few that most people set."""
        return self.setting.common

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
            hint = moved(function).get(name) or suggestion(name, known)
            raise SettingError(f"{where} has no setting {name!r}.", hint=hint)
    result = {}
    for parameter in known.values():
        if parameter.name in given:
            result[parameter.attribute] = _checked(parameter, given[parameter.name])
        elif parameter.required:
            raise SettingError(
                f"{getattr(function, '__name__', 'this function')} needs a value for {parameter.name}.",
                hint=f"{parameter.setting.help} Give --{parameter.option}.",
            )
        else:
            result[parameter.attribute] = parameter.default
    return result


def checked(body: Callable[P, R]) -> Callable[P, R]:
    """Check the settings of every call of a function as its signature declares them.

    What is no setting goes through as it is. A value that is the default is not checked: it may mean "not given".
    """

    @functools.wraps(body)
    def call(*args: P.args, **given: P.kwargs) -> R:
        defaults = {parameter.name: parameter.default for parameter in parameters(body)}
        others: dict[str, Any] = {name: value for name, value in given.items() if name in _plain(body)}
        chosen = {
            name: value
            for name, value in given.items()
            if name not in others and (name.rstrip("_") not in defaults or value != defaults[name.rstrip("_")])
        }
        return body(*args, **others, **arguments(body, check(body, chosen)))

    return call


@functools.cache
def _plain(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a function's parameters that are no settings."""
    taken = {name for parameter in parameters(function) for name in (parameter.attribute, parameter.record)}
    return frozenset(inspect.signature(function).parameters) - taken


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
        return Path(value) if isinstance(value, str | Path) and "\0" not in str(value) else None
    if kind is str:
        return str(value) if isinstance(value, str | Path | int | float) else None
    try:
        number = kind(value)
        finite = math.isfinite(number)
    except (TypeError, ValueError, OverflowError):  # the last of infinity, and of a number of 400 digits
        return None
    if kind is int and isinstance(value, float) and value != number:
        return None
    return number if finite else None


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
