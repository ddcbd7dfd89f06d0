"""What is read from a file is checked here, once: syntax, then the type of every field.

The types are the frozen dataclasses that the rest of the code works with. A text or a value that does
not fit ends as one error that names the file and the field.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from datetime import date, datetime, time
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from tlopt.errors import TloptError, reason, suggestion

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Text = Annotated[str, msgspec.Meta(min_length=1)]

_DEEPEST = 64  # levels of nesting
_LARGEST = 2**64 - 1  # the seeds that other programs draw are that large
_SCALARS = (str, int, float, bool, type(None), date, datetime, time)


class SchemaError(ValueError):
    """A text or a value does not fit; the message names the field."""


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Return the value of a JSON text whose every number is of a size that fits.

    Args:
        text: What was read.
        finite: Refuse NaN and infinities, which are no JSON, but which Python writes.

    Raises:
        SchemaError: The text is no JSON, names a key twice, or holds a value that no file of tlopt holds.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise SchemaError(f"it is nested deeper than {_DEEPEST} levels") from error
    except UnicodeDecodeError as error:
        raise SchemaError(f"it is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except SchemaError:
        raise
    except ValueError as error:
        raise SchemaError(f"it is not JSON: {_first_line(error)}") from error
    sane(value, finite=finite)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise SchemaError(f"it names {_shown(twice)} twice")
    return found


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table of a TOML text whose every number is finite and of a size that fits.

    Raises:
        SchemaError: The text is no TOML, or holds a value that no file of tlopt holds.
    """
    try:
        value = tomllib.loads(text)
    except RecursionError as error:
        raise SchemaError(f"it is nested deeper than {_DEEPEST} levels") from error
    except ValueError as error:  # TOMLDecodeError, and a number of too many digits
        raise SchemaError(f"it is not valid TOML: {_first_line(error)}") from error
    sane(value)
    return value


def sane(value: Any, path: str = "", *, depth: int = 0, finite: bool = True) -> None:
    """Refuse what no file of tlopt holds, whatever its fields are called.

    Raises:
        SchemaError: A number is not finite or too large, a text cannot be written, or the nesting is too deep.
    """
    if depth > _DEEPEST:
        raise SchemaError(f"it is nested deeper than {_DEEPEST} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            _writable(str(key), path or "a key")
            sane(item, f"{path}.{key}" if path else str(key), depth=depth + 1, finite=finite)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            sane(item, f"{path}[{index}]", depth=depth + 1, finite=finite)
    elif isinstance(value, float):
        if math.isfinite(value) or not finite:
            return
        raise SchemaError(f"{_field(path)} must be a finite number, got {value}")
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise SchemaError(f"{_field(path)} must be a number of at most 64 bits, got one of {value.bit_length()}")
    elif isinstance(value, str):
        _writable(value, _field(path))
    elif not isinstance(value, _SCALARS):
        raise SchemaError(f"{_field(path)} is of an unknown type, {type(value).__name__}")


def _writable(text: str, where: str) -> None:
    """Refuse lone surrogates, except those that stand for the bytes of a file's name (PEP 383)."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise SchemaError(f"{where} is not Unicode text: {text[:40]!a}") from error


def convert(value: Any, to: type[T], *, path: str = "", finite: bool = True) -> T:
    """Return a value of JSON or TOML types as a dataclass, or as another type that holds dataclasses.

    Every field has exactly its type: no text stands for a number, no number for a truth value. A key
    that the dataclass does not have is an error.

    Args:
        value: What was parsed.
        to: The type.
        path: Where the value stands in its file, for the error's message.
        finite: Refuse NaN and infinities.

    Raises:
        SchemaError: A field is missing, unknown, of another type or out of its range.
    """
    sane(value, path, finite=finite)
    try:
        found: T = msgspec.convert(value, to, strict=True)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise SchemaError(_reason(error, path)) from error
    _known_keys(value, to, path)
    return found


def read(text: str | bytes, to: type[T], *, where: object, error: type[TloptError], hint: str = "") -> T:
    """Return a JSON text as a dataclass, or as another type that holds dataclasses.

    Args:
        text: What was read.
        to: The type.
        where: The file, for the error's message.
        error: What is raised.
        hint: The next thing to try.

    Raises:
        TloptError: Of the type `error`: the text does not fit.
    """
    try:
        return convert(parse_json(text), to)
    except SchemaError as problem:
        raise error(f"{where} is damaged: {problem}.", hint=hint) from problem


def _known_keys(value: Any, kind: Any, path: str) -> None:
    """Refuse keys that a dataclass does not have; they are a slip, or of a newer version."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        # Every union of a schema has one member beside None, or none that is a dataclass.
        kind = next(member for member in get_args(kind) if member is not type(None))
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind, include_extras=True)
        if unknown := [key for key in value if key not in hints]:
            raise SchemaError(
                f"{_field(path)} has the unknown key {_shown(unknown[0])}. {suggestion(unknown[0], hints)}"
            )
        for key, item in value.items():
            _known_keys(item, hints[key], f"{path}.{key}" if path else key)
    elif isinstance(value, dict):
        for key, item in value.items():
            for argument in get_args(kind)[-1:]:
                _known_keys(item, argument, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            for argument in get_args(kind)[:1]:
                _known_keys(item, argument, f"{path}[{index}]")


def _reason(error: Exception, start: str) -> str:
    """Return msgspec's message with the field first: "preprocess.mean[0]: expected `float`, got `str`"."""
    message, _, path = str(error).partition(" - at `")
    path = (start + path.rstrip("`").removeprefix("key in ").removeprefix("$")).removeprefix(".")
    message = message.rstrip(".")
    return f"{_field(path)}: {message[:1].lower()}{message[1:]}"


def _field(path: str) -> str:
    return f"the field {_shown(path)}" if path else "the whole content"


def _shown(text: str) -> str:
    """Return a name of the file's as it can be printed, cut to a line."""
    return ascii(text[:80]) if not text.isprintable() else text[:80]


def _first_line(error: Exception) -> str:
    return reason(error)
