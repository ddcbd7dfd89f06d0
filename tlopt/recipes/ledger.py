"""What the runs of a recipe wrote down of its steps, and the identity of what stands on the disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tlopt.artifact import Artifact, sha256
from tlopt.cards.card import CARD_NAME
from tlopt.errors import ArtifactError, ImagesError, wrong_with
from tlopt.images import scan
from tlopt.images.manifest import is_manifest
from tlopt.images.scanning import every_image
from tlopt.publishing import write_whole
from tlopt.reading import files
from tlopt.reading.schema import convert, parse_json

STATE = ".steps.json"
LOCK = ".steps.lock"  # held by the run of a recipe
Entry = dict[str, str]
_WITHOUT = (
    "Put it back from a copy, or delete it. Without it, results whose lineage fits their step are kept, and others are "
    "not replaced unless --force-from says so."
)


def parse(text: str) -> dict[str, Entry]:
    """Read what runs wrote down: step -> "key" of what decided its result, digest of the "result", "text" to show.

    The "recipe" is the name of the file whose run it was.

    A step that was begun and not ended has an empty result, and the digest of what stood "before".

    Raises:
        ValueError: It is damaged.
    """
    found = convert(parse_json(text), dict[str, Entry])
    for name, entry in found.items():
        if not {"key", "result"} <= entry.keys():
            raise ValueError(f"the entry of {name!r} is not the record of a step")
    return {name: {"text": "", **entry} for name, entry in found.items()}


def read(out: Path, *, anew: bool = False) -> dict[str, Entry]:
    """Return what was written down.

    Args:
        out: Folder of the steps' folders.
        anew: Whether all steps are made again: then a damaged record says nothing.

    Raises:
        ArtifactError: It is damaged. Nobody knows then which results are the recipe's, and may be replaced.
    """
    try:
        return parse(files.read_text(out / STATE))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        if anew:
            return {}
        wrong, hint = wrong_with(error, _WITHOUT)
        raise ArtifactError(f"{out / STATE}, which says what the steps were made of, {wrong}.", hint=hint) from error


def write(out: Path, state: dict[str, Entry], name: str, entry: Entry) -> None:
    """Write down what became of a step, if that is news."""
    if state.get(name) != entry:
        state[name] = entry
        write_whole(out / STATE, json.dumps(state, indent=1))


def identity(path: Path) -> str:
    """Return the digest of an artifact, a folder of images, a file, or a folder of results."""
    try:
        if (path / CARD_NAME).exists():
            return Artifact.load(path).digest
        if path.is_file() and not is_manifest(path):
            return sha256(path)
        try:
            return scan(path).digest
        except ImagesError:
            if results := sorted(path.glob("*.json")):
                return hashlib.sha256("".join(map(sha256, results)).encode()).hexdigest()
            return every_image(path).digest  # without class folders
    except (ArtifactError, ImagesError, OSError):
        return ""
