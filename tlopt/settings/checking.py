"""Checking the values of settings: names, types, ranges, choices."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tlopt.errors import SettingError, suggestion
from tlopt.process.waiting import sharing
from tlopt.settings.declaring import Parameter, number_text, range_text
from tlopt.settings.signatures import KIND, arguments, flat_signature, moved, parameters, rules

_LARGEST = 2**63 - 1  # what TOML holds; a card holds one bit more, for a seed and a small number added to it
P = ParamSpec("P")
R = TypeVar("R")


def check(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the complete settings for a call: defaults filled in, types and ranges checked.

    Keys are the function's own parameter names. Where a setting sets others (`Setting.sets`), its values stand in for
    their defaults. Lists become tuples, whole numbers become floats where a float is wanted, strings become paths and
    numbers where those are wanted.

    Raises:
        SettingError: A name is unknown, a required value is missing, a value does not fit or has no effect.
        TloptError: A rule between settings is broken, as it says.
    """
    known = {parameter.name: parameter for parameter in parameters(function)}
    given = {name.rstrip("_").replace("-", "_"): value for name, value in values.items()}
    for name in given:
        if name not in known:
            where = getattr(function, "__name__", "this function")
            hint = moved(function).get(name) or suggestion(name, known)
            raise SettingError(f"{where} has no setting {name!r}.", hint=hint)
    if len(given) < len(values):
        spelled = next(name for name in values if name.rstrip("_").replace("-", "_") != name)
        raise SettingError(f"{spelled} is given twice, in two spellings.", hint="Leave one of them out.")
    bundled = _bundled(known.values(), given)
    wanted = {**bundled, **given}
    result = {}
    for parameter in known.values():
        if parameter.name in wanted:
            result[parameter.attribute] = _checked(parameter, wanted[parameter.name])
        elif parameter.required:
            raise SettingError(
                f"{getattr(function, '__name__', 'this function')} needs a value for {parameter.shown}.",
                hint=f"{parameter.setting.help} Give --{parameter.option}.",
            )
        else:
            result[parameter.attribute] = parameter.default
    _ask(function, result, {})
    _refuse_idle(known.values(), given, result)
    return result


def recorded(function: Callable[..., Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that had an effect and say something later, by the names that the user knows.

    This is what a card keeps.

    Args:
        function: Whose settings they are.
        chosen: What `check` returned.
    """
    known = parameters(function)
    left_out = {name for _, names in _idle(known, chosen) for name in names}
    left_out |= {parameter.name for parameter in known if parameter.setting.passing}
    return {name.rstrip("_"): value for name, value in chosen.items() if name.rstrip("_") not in left_out}


def check_kind(function: Callable[..., Any], chosen: Mapping[str, Any], kind: str) -> None:
    """Ask the rules of a function about what it works on.

    Args:
        function: Whose rules they are.
        chosen: What `check` returned.
        kind: That of an artifact, or "images", "file" or "nothing".

    Raises:
        TloptError: A rule is broken, as it says.
    """
    _ask(function, chosen, {KIND: kind})


def _ask(function: Callable[..., Any], chosen: Mapping[str, Any], more: Mapping[str, str]) -> None:
    if asked := rules(function, of_kind=KIND in more):
        given = {**arguments(function, chosen), **more}
        for rule in asked:
            rule(**{name: given[name] for name in inspect.signature(rule).parameters})


def _bundled(known: Iterable[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that one setting gives to others: they hold for those that are not given themselves."""
    result: dict[str, Any] = {}
    for parameter in known:
        if parameter.setting.sets:
            value = _checked(parameter, given.get(parameter.name, parameter.default))
            result |= parameter.setting.sets[value]
    return result


def _idle(known: Iterable[Parameter], chosen: Mapping[str, Any]) -> Iterator[tuple[Parameter, tuple[str, ...]]]:
    """Yield each setting that leaves others without effect, with the names of those."""
    for parameter in known:
        if names := parameter.setting.idles.get(chosen[parameter.attribute], ()):
            yield parameter, names


def _refuse_idle(known: Collection[Parameter], given: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Refuse settings that were given, differ from their defaults and have no effect.

    Raises:
        SettingError: There are some.
    """
    for cause, names in _idle(known, chosen):
        idle = [
            one.name
            for one in known
            if one.name in given
            and chosen[one.attribute] != one.default
            and (one.name in names or _sets_only(one, chosen[one.attribute], names))
        ]
        if idle:
            one_or_more = ("has", "it") if len(idle) == 1 else ("have", "them")
            by = [one for one in known if cause.name not in given and cause.name in _set_by(one, chosen)]
            why = f"{cause.name} {chosen[cause.attribute]}"
            why += "".join(f", which {one.name} {chosen[one.attribute]} sets" for one in by)
            others = " or ".join(f"--{one.option}" for one in (*by, cause))
            raise SettingError(
                f"{' and '.join(idle)} {one_or_more[0]} no effect with {why}.",
                hint=f"Leave {one_or_more[1]} out, or give another {others}.",
            )


def _set_by(parameter: Parameter, chosen: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values that a setting gives to others."""
    return parameter.setting.sets.get(chosen[parameter.attribute], {})


def _sets_only(parameter: Parameter, value: Any, names: Collection[str]) -> bool:
    """Return whether all that a setting does is to set some others."""
    found = parameter.setting.sets.get(value, {})
    return bool(found) and set(found) <= set(names)


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
        complete = arguments(body, check(body, chosen))
        with sharing():
            return body(*args, **others, **complete)

    return call


def flat(body: Callable[..., R]) -> Callable[..., R]:
    """Check the settings of every call of a function with records: its callers give the fields, not the records."""
    call = checked(body)
    call.__dict__["__signature__"] = flat_signature(body)
    return call


@functools.cache
def _plain(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a function's parameters that are no settings."""
    taken = {name for parameter in parameters(function) for name in (parameter.attribute, parameter.record)}
    return frozenset(inspect.signature(function).parameters) - taken


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
        raise SettingError(f"{parameter.shown} must be {_WANTED[kind]}, got {value!r}.", hint=parameter.setting.help)
    if kind is Path and converted.parts[:1] == ("~",):
        raise SettingError(
            f"{parameter.shown} begins with ~, which only a shell takes for your home folder.",
            hint=f"Write {os.path.expanduser(converted)}",  # noqa: PTH111 - Path raises where there is no home
        )
    if kind is int and abs(converted) > _LARGEST:
        raise SettingError(
            f"{parameter.shown} must be a number of at most 63 bits, got one of {converted.bit_length()}.",
            hint=parameter.setting.help,
        )
    if parameter.known and converted not in parameter.known:
        raise SettingError(
            f"{parameter.shown} cannot be {converted!r}.", hint=suggestion(str(converted), parameter.known)
        )
    low, high = parameter.setting.minimum, parameter.setting.maximum
    if kind in (int, float) and ((low is not None and converted < low) or (high is not None and converted > high)):
        raise SettingError(
            f"{parameter.name} must be {range_text(parameter.setting)}, got {number_text(converted)}.",
            hint=parameter.setting.help,
        )
    return converted


_WANTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Path: "the name of a file or folder",
    str: "text",
}


def _converted(kind: type, value: Any) -> Any:
    """Return the value as the wanted type, or None where that would change its meaning."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if kind is Path:
        # An empty text would be the current folder, and is a variable of the shell that nobody set.
        return Path(value) if isinstance(value, str | Path) and str(value) and "\0" not in str(value) else None
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
