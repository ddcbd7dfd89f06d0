"""An artifact is a folder that explains itself: payload files plus ``artifact.json``."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from tlopt.cards.card import CARD_NAME, Card, plain
from tlopt.errors import ArtifactError, wrong_with
from tlopt.preprocess import LATER
from tlopt.publishing import marks
from tlopt.reading import external_data, files
from tlopt.reading.files import real_path
from tlopt.reading.image_files import SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A loaded artifact: its folder and its card."""

    path: Path
    card: Card

    @classmethod
    def load(cls, path: str | Path | Artifact) -> Artifact:
        """Load an artifact and verify the sha256 of every payload file.

        Raises:
            ArtifactError: The folder is missing or no artifact, or a payload file is missing,
                changed or unreadable.
        """
        if isinstance(path, Artifact):
            return path
        path = Path(path)
        try:
            text = files.read_text(path / CARD_NAME)
        except (OSError, ValueError) as error:
            if not os.path.exists(path):  # noqa: PTH110 - Path raises for a name too long
                raise ArtifactError(f"There is no artifact at {path}.") from error
            wrong, hint = wrong_with(error, "")
            if hint:  # it is there
                raise ArtifactError(f"{path / CARD_NAME} {wrong}.", hint=hint) from error
            raise _no_artifact(path, error) from error
        try:
            card = Card.from_json(text)
        except ArtifactError as error:
            raise ArtifactError(f"{path / CARD_NAME}: {error.message}", hint=error.hint) from error
        for name, expected in card.files.items():
            file = path / name
            if not real_path(file).is_relative_to(real_path(path)):
                raise ArtifactError(f"The card of {path} names a file outside of its folder: {name}.")
            try:
                found = sha256(file)
            except files.IrregularFileError as error:
                raise ArtifactError(error.message, hint="Make the artifact again.") from error
            except OSError as error:
                wrong, hint = wrong_with(error, "Make the artifact again.")
                raise ArtifactError(f"{file} {wrong}.", hint=hint) from error
            if found != expected:
                raise ArtifactError(
                    f"{file} was changed after the artifact was made: sha256 {found[:12]}…, expected {expected[:12]}….",
                    hint="Make the artifact again.",
                )
            if name.endswith(".onnx"):
                external_data.check(file, listed=card.files.keys())
        return cls(path=path, card=card)

    @property
    def digest(self) -> str:
        """Identity of what the artifact computes: payload, classes and preprocessing."""
        identity = plain(self.card)
        del identity["lineage"], identity["images"], identity["details"]
        for name, usual in LATER.items():  # what 0.1.0 did not know counts where it says something
            if identity["preprocess"][name] == usual:
                del identity["preprocess"][name]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Name of the folder."""
        return real_path(self.path).name

    @property
    def size_mb(self) -> float:
        """Size of the payload, 10^6 bytes: of what runs, without the pictures and lists beside it."""
        shipped = [name for name in self.card.files if name.endswith(_PAYLOADS)]
        return sum((self.path / name).stat().st_size for name in shipped) / 1e6

    def payload(self, suffix: str) -> Path:
        """Return the one payload file with this suffix (".onnx")."""
        found = [name for name in self.card.files if name.endswith(suffix)]
        if len(found) != 1:
            raise ArtifactError(f"{self.path} has {len(found)} payload files ending in {suffix}, expected one.")
        return self.path / found[0]

    def expect(self, *kinds: str) -> Artifact:
        """Return self if the artifact is of one of the kinds.

        Raises:
            ArtifactError: It is not.
        """
        if self.card.kind not in kinds:
            raise ArtifactError(
                f"{self.path} is of kind {self.card.kind}; this needs {' or '.join(kinds)}.",
                hint=_MAKES.get(kinds[0], ""),
            )
        return self

    def expect_classifier(self, verb: str) -> Artifact:
        """Return self if the artifact is a classifier.

        Args:
            verb: What needs one.

        Raises:
            ArtifactError: It is of another task.
        """
        if self.card.task != "classify":
            names = ", ".join(output.name for output in self.card.outputs)
            raise ArtifactError(
                f"{self.path} is no classifier: its outputs are {names}. {verb} needs classes.",
                hint="tlopt compare SOURCE ARTIFACT --images DIR judges the outputs; tlopt bench measures the speed.",
            )
        return self


def images_of(path: Path) -> Path | None:
    """Return where the images of an artifact are; None if it knows of none, or is no artifact that can be read."""
    try:
        ref = Card.from_json(files.read_text(path / CARD_NAME)).images
    except (OSError, ValueError, ArtifactError):
        return None
    return Path(ref.path) if ref is not None else None


def _no_artifact(path: Path, cause: Exception) -> ArtifactError:
    """Return the error of a path that is no artifact: it says what else it is, where tlopt or its name tells."""
    made = marks.made(path)
    if made is not None and made.group in _INSTEAD:
        return ArtifactError(f"{path} is {made.what}, not an artifact.", hint=_INSTEAD[made.group].format(path))
    why = f", which {cause.reason}" if isinstance(cause, files.IrregularFileError) else ""
    hint = "Artifacts are made by tlopt finetune and tlopt import."
    if path.suffix in (".onnx", ".keras", ".pt2") and path.is_file():
        hint = "tlopt import makes an artifact of it."
    elif _holds_images(path):
        hint = f"It holds images: tlopt finetune {path} -o OUT makes an artifact of them."
    return ArtifactError(f"{path} is not an artifact: it has no readable {CARD_NAME}{why}.", hint=hint)


def _holds_images(path: Path) -> bool:
    """Whether a folder begins with images, or with folders of images, as far as a short look tells."""
    try:
        entries = [*itertools.islice(os.scandir(path), _LOOK)]
        for entry in entries:  # and what it gets on the way
            if len(entries) < _LOOK and entry.is_dir(follow_symlinks=False):
                entries += itertools.islice(os.scandir(entry.path), _LOOK)
        return any(os.path.splitext(entry.name)[1].lower() in SUFFIXES for entry in entries)
    except OSError:
        return False


_PAYLOADS = (".safetensors", ".onnx", ".onnx.data", ".engine")  # ends of the names of what runs
_LOOK = 100  # entries of a folder that tell what it holds
_INSTEAD = {
    "search": "The artifact that it found is {}/best.",
    "deployment": "Give the artifact that it was made of.",
    "report": "Give one of the artifacts that it is about.",
}
_MAKES = {
    "torch": "tlopt finetune makes a torch artifact.",
    "onnx": "tlopt export makes an onnx artifact of a torch one.",
    "tensorrt": "tlopt build makes a tensorrt artifact of an onnx one.",
}


def sha256(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    with files.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: str | os.PathLike[str], card: Card) -> Card:
    """Write ``artifact.json`` into a folder, with the sha256 of every other file in it."""
    folder = Path(folder)
    files = {
        str(file.relative_to(folder)): sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != CARD_NAME
    }
    card = replace(card, files=files)
    (folder / CARD_NAME).write_text(card.to_json(), encoding="utf-8")
    return card
