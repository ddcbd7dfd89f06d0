"""Protobuf's text format, written: what Triton reads from ``config.pbtxt``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Characters that the format spells with a backslash inside a string.
_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Word(str):
    """A word of the format itself, which stands without quotes: a value of an enumeration."""

    __slots__ = ()


def text(message: Mapping[str, Any]) -> str:
    """Return a message as text.

    Args:
        message: Field -> value. A mapping is a message, a sequence a repeated field, a `Word` an enumeration's value.
    """
    return "".join(f"{line}\n" for line in _lines(message, ""))


def _lines(message: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name} {{"
            yield from _lines(value, indent + "  ")
            yield f"{indent}}}"
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if value and isinstance(value[0], Mapping):
                for item in value:
                    yield from _lines({name: item}, indent)
            else:
                yield f"{indent}{name}: [{', '.join(map(_scalar, value))}]"
        else:
            yield f"{indent}{name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word | int):
        return str(value)
    assert isinstance(value, str), f"{type(value).__name__} is no scalar of the format"
    return '"' + "".join(_ESCAPED.get(letter, letter) for letter in value) + '"'
