"""Ways to damage a file, each decided by a seed: for campaigns that look for inputs which are answered badly.

A mutator takes the content and a `random.Random`, and returns other content. `TEXT` has those for any text, `DATA`
those for JSON and TOML, `BYTES` those for any file.
"""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

# What stands in the place of a value: of another type, out of every range, or of a size that nothing holds.
WRONG: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -0.5, 0.5, 1e308, -1e308, float("nan"), float("inf"), "", "a",
    "a" * 5000, "..", "/etc/passwd", "../../x", "\0", "\ud800", "\x1b[31m", "{}", [], [[]], {}, {"a": 1}, ["a"], [None],
)  # fmt: skip
_DEEP = 100_000


def flip(content: bytes, choice: random.Random) -> bytes:
    """Flip a few bits."""
    found = bytearray(content)
    for _ in range(choice.choice((1, 1, 4, 32)) if found else 0):
        found[choice.randrange(len(found))] ^= 1 << choice.randrange(8)
    return bytes(found)


def truncate(content: bytes, choice: random.Random) -> bytes:
    """Cut the end off."""
    return content[: choice.randrange(len(content))] if content else content


def zero(content: bytes, choice: random.Random) -> bytes:
    """Write zeros over a part, as a disk that lost a block does."""
    if not content:
        return content
    start = choice.randrange(len(content))
    length = min(len(content) - start, choice.choice((1, 16, 512, 4096)))
    return content[:start] + bytes(length) + content[start + length :]


def repeat(content: bytes, choice: random.Random) -> bytes:
    """Write a part twice."""
    if not content:
        return content
    start = choice.randrange(len(content))
    part = content[start : start + choice.choice((1, 16, 512))]
    return content[:start] + part + content[start:]


def empty(content: bytes, choice: random.Random) -> bytes:
    """Leave nothing."""
    del content, choice
    return b""


BYTES: Mapping[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": flip, "truncate": truncate, "zero": zero, "repeat": repeat, "empty": empty,
}  # fmt: skip


def other_letter(content: str, choice: random.Random) -> str:
    """Put another letter in the place of one."""
    if not content:
        return content
    place = choice.randrange(len(content))
    return content[:place] + choice.choice('"{}[]=,:.\n\0\\#9-eé\ufffe') + content[place + 1 :]


def without_a_piece(content: str, choice: random.Random) -> str:
    """Delete a piece."""
    if not content:
        return content
    place = choice.randrange(len(content))
    return content[:place] + content[place + choice.choice((1, 5, 40)) :]


def line_twice(content: str, choice: random.Random) -> str:
    """Write a line twice."""
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    place = choice.randrange(len(lines))
    return "".join([*lines[:place], lines[place], *lines[place:]])


def nested(content: str, choice: random.Random) -> str:
    """Put very many brackets somewhere."""
    place = choice.randrange(len(content) + 1)
    return content[:place] + choice.choice("[{(") * choice.choice((3, 100, _DEEP)) + content[place:]


def long_number(content: str, choice: random.Random) -> str:
    """Put a number of very many digits in the place of a digit."""
    places = [place for place, letter in enumerate(content) if letter.isdigit()]
    if not places:
        return content
    place = choice.choice(places)
    return content[:place] + "9" * choice.choice((20, 400, 5000)) + content[place + 1 :]


TEXT: Mapping[str, Callable[[str, random.Random], str]] = {
    "other_letter": other_letter, "without_a_piece": without_a_piece, "line_twice": line_twice, "nested": nested,
    "long_number": long_number,
}  # fmt: skip

Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> list[Place]:
    """Return where the values of parsed JSON or TOML stand, the whole first."""
    found = [at]
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*at, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += places(item, (*at, index))
    return found


def replaced(value: Any, at: Place, new: Any) -> Any:
    """Return parsed JSON or TOML with another value at a place."""
    if not at:
        return new
    first, *rest = at
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[first] = replaced(copy[first], tuple(rest), new)
    return copy


def wrong_value(value: Any, choice: random.Random) -> Any:
    """Put a value of another type, or out of its range, in the place of one."""
    return replaced(value, choice.choice(places(value)[1:] or [()]), choice.choice(WRONG))


def without_a_key(value: Any, choice: random.Random) -> Any:
    """Leave a key, or an item of a list, out."""
    inner = places(value)[1:]
    if not inner:
        return value
    *parent, last = choice.choice(inner)
    holder = value
    for key in parent:
        holder = holder[key]
    if isinstance(holder, dict):
        return replaced(value, tuple(parent), {key: item for key, item in holder.items() if key != last})
    return replaced(value, tuple(parent), [item for index, item in enumerate(holder) if index != last])


def unknown_key(value: Any, choice: random.Random) -> Any:
    """Give an object a key that it does not have."""
    objects = [at for at in places(value) if isinstance(_at(value, at), dict)]
    if not objects:
        return value
    at = choice.choice(objects)
    return replaced(value, at, {**_at(value, at), choice.choice(("colour", "", "a b", "\0", "__class__")): 1})


def exchanged(value: Any, choice: random.Random) -> Any:
    """Put one value in the place of another."""
    inner = places(value)[1:]
    if not inner:
        return value
    return replaced(value, choice.choice(inner), _at(value, choice.choice(inner)))


def _at(value: Any, at: Place) -> Any:
    for key in at:
        value = value[key]
    return value


DATA: Mapping[str, Callable[[Any, random.Random], Any]] = {
    "wrong_value": wrong_value, "without_a_key": without_a_key, "unknown_key": unknown_key, "exchanged": exchanged,
}  # fmt: skip


def damaged_bytes(content: bytes, seed: int) -> tuple[str, bytes]:
    """Return the name of a mutator for any file, and what it made."""
    choice = random.Random(seed)
    name = choice.choice(list(BYTES))
    return name, BYTES[name](content, choice)


def damaged_text(content: str, seed: int) -> tuple[str, str]:
    """Return the name of a mutator for any text, and what it made."""
    choice = random.Random(seed)
    name = choice.choice(list(TEXT))
    return name, TEXT[name](content, choice)


def damaged_json(content: str, seed: int) -> tuple[str, str]:
    """Return the name of a mutator, mostly one that keeps the syntax of JSON, and what it made."""
    choice = random.Random(seed)
    if choice.random() < 0.25:
        return damaged_text(content, seed)
    name = choice.choice(list(DATA))
    return name, json.dumps(DATA[name](json.loads(content), choice), indent=1)


def damaged_toml(content: str, seed: int) -> tuple[str, str]:
    """Return the name of a mutator, mostly one that keeps the syntax of TOML, and what it made."""
    choice = random.Random(seed)
    if choice.random() < 0.25:
        return damaged_text(content, seed)
    name = choice.choice(list(DATA))
    made = DATA[name](tomllib.loads(content), choice)
    return name, toml(made) if isinstance(made, dict) else str(made)


def toml(table: Mapping[str, Any]) -> str:
    """Return a table as TOML: plain values first, then a section for each table; null is left out."""
    plain = "".join(f"{_key(key)} = {_value(item)}\n" for key, item in table.items() if not isinstance(item, dict))
    sections = [
        f"[{_key(key)}]\n" + "".join(f"{_key(name)} = {_value(item)}\n" for name, item in inner.items())
        for key, inner in table.items()
        if isinstance(inner, dict)
    ]
    return plain + "".join(sections)


def _key(name: str) -> str:
    return json.dumps(name)


def _value(item: Any) -> str:
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, list):
        return "[" + ", ".join(map(_value, item)) + "]"
    if isinstance(item, dict):
        return "{" + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in item.items()) + "}"
    return json.dumps("" if item is None else item) if isinstance(item, str | None) else repr(item)
