"""What a search reads, known before anything of it is opened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tlopt.artifact import Artifact
from tlopt.cards.card import CARD_NAME
from tlopt.environment import versions
from tlopt.errors import TloptError
from tlopt.images import manifest
from tlopt.search.once import digest_of

_State = tuple[str, int, int]  # name, bytes and date of a file


def named(source: Path, images: Path | None, models: Iterable[str], weights: Iterable[str]) -> tuple[Path, ...]:
    """Return the files and folders that settings name, and the images that the source was made of.

    Args:
        source: Images or an artifact.
        images: Where the images of an artifact are now.
        models: Names of networks, or folders of artifacts.
        weights: Files, each ``NAME=FILE``; either may hold "=".
    """
    given = [
        *models,
        *(weight[place + 1 :] for weight in weights for place, sign in enumerate(weight) if sign == "="),
    ]
    # Not Path.exists: it raises for a name that is too long to be a file's.
    found = [source, *([images] if images else []), *(Path(one) for one in given if one and os.path.exists(one))]  # noqa: PTH110
    if images is None and os.path.exists(source / CARD_NAME):  # noqa: PTH110
        with contextlib.suppress(TloptError):  # what is wrong with it is told when it is opened
            ref = Artifact.load(source).card.images
            found += [Path(ref.path)] if ref is not None else []
    return tuple(found)


def quick_digest(settings: Mapping[str, Any], places: Iterable[Path]) -> str:
    """Return a digest that tells at once whether anything was changed since: no content of an image is read.

    Args:
        settings: All that decides what is found.
        places: Files, manifests and folders that are read.
    """
    told = {name: str(value) for name, value in settings.items()}
    seen = [[str(place.absolute()), sorted(_states(place))] for place in places]
    return digest_of(versions()["tlopt"], told, seen)


def _states(place: Path) -> Iterator[_State]:
    """Yield the state of a file and of what it lists, or of all files below a folder; what is gone is passed over."""
    if place.is_dir():
        for file in _below(place):
            yield from _state(file, os.path.relpath(file, place))
        return
    yield from _state(place, place.name)
    if manifest.is_manifest(place):
        with contextlib.suppress(TloptError):
            for row in manifest.read(place):
                yield from _state(place.parent / row.path, row.path)


def _state(file: str | Path, name: str) -> Iterator[_State]:
    with contextlib.suppress(OSError, ValueError):
        found = os.stat(file)
        yield name, found.st_size, found.st_mtime_ns


def _below(folder: Path) -> Iterator[str]:
    """Yield the files below a folder, and below folders that it links to, each folder once."""
    gone_through: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        try:
            found = os.stat(root)
        except OSError:
            folders.clear()
            continue
        if (found.st_dev, found.st_ino) in gone_through:
            folders.clear()
            continue
        gone_through.add((found.st_dev, found.st_ino))
        yield from (os.path.join(root, name) for name in names)
