"""Class names as files of other programs hold them."""

from __future__ import annotations

import codecs
import logging
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tlopt.errors import SettingError, reason
from tlopt.reading import files
from tlopt.reading.names import alike, check_classes
from tlopt.reading.schema import SchemaError, parse_json

log = logging.getLogger(__name__)

_LINES = re.compile(r"\r\n|\n|\r")
_NUMBERED = re.compile(r"(\d+)[\s:,;]+(\S.*)")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_WRAPPERS = ("id2label", "class_indices", "names", "classes", "labels")
_FORMS = (
    'Write one class name a line, in the order of the logits, or JSON: ["cat", "dog"], {"cat": 0, "dog": 1} or '
    '{"0": "cat", "1": "dog"}.'
)


def read_classes(file: Path) -> tuple[str, ...]:
    """Read class names, in the order of the logits.

    One name a line, numbered from 0 or not; or JSON: a list, numbers by names, names by numbers, or the index of
    ImageNet's classes that comes with Keras.

    Raises:
        SettingError: The file cannot be read, has another form, is empty or names a class twice.
        ImagesError: A name cannot be written or shown.
    """
    try:
        text = _text(files.read_bytes(file))
        names = _of_json(parse_json(text)) if text.lstrip()[:1] in ("[", "{") else _of_lines(text)
    except (OSError, ValueError) as error:
        hint = _FORMS if isinstance(error, SchemaError) else ""
        raise SettingError(f"The class names in {file} cannot be read: {reason(error)}.", hint=hint) from error
    check_classes(names, file)
    twice = {name for name, count in Counter(names).items() if count > 1}
    if twice or len(names) < 2:
        problem = f"names {sorted(twice)[0]!r} twice" if twice else f"names too few classes: {len(names)}"
        raise SettingError(f"{file} {problem}.", hint="Write one class name a line, in the order of the logits.")
    for one, other in alike(names):
        log.warning("%s names two classes that differ by case or spacing alone: %r and %r.", file, one, other)
    return tuple(names)


def _text(content: bytes) -> str:
    """Return the text of a file, without the mark that programs on Windows put before it."""
    return content.decode(next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8"))


def _of_lines(text: str) -> list[str]:
    names = [line for line in map(str.strip, _LINES.split(text)) if line]
    found = [_NUMBERED.fullmatch(name) for name in names]
    if names and all(match and int(match[1]) == place for place, match in enumerate(found)):
        bare = [match[2] for match in found if match]
        if len(set(bare)) == len(bare):  # "0 euro" and "1 euro" are names
            return bare
    return names


def _of_json(value: Any) -> list[str]:
    if isinstance(value, dict):
        for key in _WRAPPERS:
            if isinstance(value.get(key), dict | list):
                return _of_json(value[key])
        value = _in_order(value)
    if all(isinstance(item, list) and len(item) == 2 for item in value) and value:
        # ["n01440764", "tench"]: ImageNet has two classes of the name "crane".
        column = 1 if len({str(item[1]) for item in value}) == len(value) else 0
        value = [item[column] for item in value]
    if wrong := [item for item in value if isinstance(item, bool) or not isinstance(item, str | int)]:
        raise SchemaError(f"the JSON has {_shown(wrong[0])} where a class name belongs")
    return [name for name in map(str.strip, map(str, value)) if name]


def _in_order(table: dict[str, Any]) -> list[Any]:
    """Return the names of a JSON object: of {"cat": 0} or of {"0": "cat"}."""
    places = range(len(table))
    numbers = [int(key) for key in table if key.isascii() and key.isdigit()]
    if sorted(numbers) == list(places) and len(numbers) == len(table):
        by_number = {int(key): item for key, item in table.items()}
        return [by_number[place] for place in places]
    values = list(table.values())
    if all(type(item) is int for item in values) and sorted(values) == list(places):
        return sorted(table, key=lambda name: table[name])
    raise SchemaError("the JSON object does not number names from 0 without a gap")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def fitting(names: Iterable[str] | None, width: int) -> tuple[str, ...]:
    """Return the class names if they are as many as the logits; ImageNet's ids for 1,000 without a file.

    Raises:
        SettingError: They are not.
    """
    if names is None:
        if width != 1000:
            raise SettingError(
                f"The model has {width} classes and their names are not known.",
                hint="Name them with --classes FILE, one a line in the order of the logits.",
            )
        from tlopt.sources import timm

        return timm.imagenet_ids()
    names = tuple(names)
    if len(names) != width:
        raise SettingError(f"The file names {len(names)} classes, the model has {width}.")
    return names
