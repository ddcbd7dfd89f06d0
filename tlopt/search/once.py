"""Nothing is made twice: artifacts and results lie at the address of what made them."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tlopt.artifact import Artifact
from tlopt.cards.card import CARD_NAME, plain
from tlopt.errors import ArtifactError, OutputExistsError
from tlopt.publishing import write_whole
from tlopt.publishing.claims import lock_file, refuse_claimed
from tlopt.reading import files, schema

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Result = TypeVar("Result", bound=DataclassInstance)

log = logging.getLogger(__name__)

_DIGITS = 16  # 64 bits: two of a million things share an address once in 40 million searches
_PAUSE = 0.5  # seconds between two looks at what another process is making


def digest_of(*parts: Any) -> str:
    """Return an address: 16 hexadecimal digits of the JSON of some values."""
    text = json.dumps(plain(list(parts)), sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_DIGITS]


def once(place: Path, make: Callable[[Path], Artifact]) -> Artifact:
    """Open the artifact at a place, or make it; what another process is making is waited for.

    Args:
        place: Where it lies, or will.
        make: Makes it there, and replaces what is damaged.

    Raises:
        OutputExistsError: Something else lies there.
    """
    refused = False
    while True:
        if (place / CARD_NAME).exists():
            try:
                return Artifact.load(place)
            except ArtifactError as error:
                log.warning("%s It is made again.", error.message)
        try:
            return make(place)
        except OutputExistsError:
            # Whoever was making it may have been killed meanwhile, and the lock is free: then once more.
            waits = _in_the_making(place)
            if refused and not waits:
                raise
            refused = not waits
            time.sleep(_PAUSE)


def _in_the_making(place: Path) -> bool:
    try:
        refuse_claimed(lock_file(place), place)
    except OutputExistsError:
        return True
    return False


def remembered(file: Path, kind: type[Result], make: Callable[[], Result]) -> Result:
    """Return the result that a file holds, or make it and write it there.

    Args:
        file: A JSON file.
        kind: The dataclass that it holds.
        make: Makes it.
    """
    try:
        return schema.convert(schema.parse_json(files.read_text(file), finite=False), kind, finite=False)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning("%s is damaged, so it is measured again: %s", file, error)
    made = make()
    write_whole(file, json.dumps(asdict(made), indent=1) + "\n")
    return made
