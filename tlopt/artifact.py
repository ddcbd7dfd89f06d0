"""An artifact is a folder that explains itself: payload files plus ``artifact.json``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tlopt.errors import ArtifactError, OutputExistsError
from tlopt.preprocess import Preprocess

SCHEMA = 1
CARD_NAME = "artifact.json"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage that an artifact went through.

    `source` is the digest of what the stage read: an artifact's or an image folder's.
    """

    stage: str
    settings: Mapping[str, Any]
    source: str
    seconds: float
    versions: Mapping[str, str]
    device: str

    @property
    def telling(self) -> dict[str, Any]:
        """The settings that say something: not those left empty."""
        return {name: value for name, value in self.settings.items() if value not in (None, "", [])}


@dataclass(frozen=True, kw_only=True)
class ImagesRef:
    """The images that an artifact was trained on, and how they were split."""

    path: str
    digest: str
    val: float
    test: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything a later stage needs to know about an artifact's payload.

    Args:
        kind: "torch", "onnx" or "tensorrt".
        model: Where the architecture comes from, ``source:name``.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8".
        classes: Class names, in the order of the logits.
        preprocess: How an image file becomes the network's input.
        images: The training images, or None if the model was imported.
        files: Payload file name -> sha256.
        lineage: The stages gone through, oldest first.
        details: What only the kind's own backend reads (torch: widths; onnx: opset, batch range;
            tensorrt: flavour, version, targets).
    """

    kind: str
    model: str
    precision: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    images: ImagesRef | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    lineage: tuple[Step, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of ``artifact.json``."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON types."""
        return {"schema": SCHEMA, **_plain(self)}

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Rebuild from `to_json`.

        Raises:
            ArtifactError: The text is no card, or one of a newer tlopt.
        """
        try:
            raw = json.loads(text)
            schema = raw.pop("schema")
            if schema > SCHEMA:
                raise ArtifactError(
                    f"The card has schema {schema}; this version of tlopt reads up to {SCHEMA}.",
                    hint="python -m pip install --upgrade tlopt",
                )
            return cls(
                **{
                    **raw,
                    "classes": tuple(raw["classes"]),
                    "preprocess": Preprocess.from_dict(raw["preprocess"]),
                    "images": ImagesRef(**raw["images"]) if raw["images"] else None,
                    "lineage": tuple(Step(**step) for step in raw["lineage"]),
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"The card is damaged: {error}.") from error


def _plain(value: Any) -> Any:
    """Return dataclasses, tuples and paths as JSON types."""
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


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
            text = (path / CARD_NAME).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            if not path.exists():
                raise ArtifactError(f"There is no artifact at {path}.") from error
            raise ArtifactError(
                f"{path} is not an artifact: it has no readable {CARD_NAME}.",
                hint="Artifacts are made by tlopt finetune and tlopt import.",
            ) from error
        try:
            card = Card.from_json(text)
        except ArtifactError as error:
            raise ArtifactError(f"{path / CARD_NAME}: {error.message}", hint=error.hint) from error
        for name, expected in card.files.items():
            file = path / name
            if not file.resolve().is_relative_to(path.resolve()):
                raise ArtifactError(f"The card of {path} names a file outside of its folder: {name}.")
            try:
                found = sha256(file)
            except OSError as error:
                raise ArtifactError(f"{file} is missing or cannot be read.", hint="Make the artifact again.") from error
            if found != expected:
                raise ArtifactError(
                    f"{file} was changed after the artifact was made: sha256 {found[:12]}…, expected {expected[:12]}….",
                    hint="Make the artifact again.",
                )
        return cls(path=path, card=card)

    @property
    def digest(self) -> str:
        """Identity of what the artifact computes: payload, classes and preprocessing."""
        identity = _plain(self.card)
        del identity["lineage"], identity["images"], identity["details"]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def size_mb(self) -> float:
        """Size of the payload, 10^6 bytes."""
        return sum((self.path / name).stat().st_size for name in self.card.files) / 1e6

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


_MAKES = {
    "torch": "tlopt finetune makes a torch artifact.",
    "onnx": "tlopt export makes an onnx artifact of a torch one.",
    "tensorrt": "tlopt build makes a tensorrt artifact of an onnx one.",
}


def sha256(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def draft(out: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a scratch folder that becomes `out` only if the block succeeds.

    The scratch folder lies beside `out`, so that the final rename is atomic. Whatever interrupts
    the block leaves `out` as it was; a scratch folder that a killed process left is swept away by
    the next one.

    Args:
        out: The folder to make.
        force: Replace what is there.

    Raises:
        OutputExistsError: `out` exists and `force` is not set, or a file is where its folder would be.
    """
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OutputExistsError(
            f"{out} cannot be made: {out.parent} is, or lies below, a file.", hint="Choose another --out."
        ) from None
    _sweep(out)
    if not force:
        refuse_existing(out)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.{os.getpid()}@{_node()}.", dir=out.parent))
    try:
        yield scratch
        _publish(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def refuse_existing(out: Path) -> None:
    """Raise an error if something is at `out`.

    Raises:
        OutputExistsError: It exists and is not an empty folder.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise OutputExistsError(f"{out} exists already.", hint="Choose another --out, or add --force to replace it.")


def _publish(scratch: Path, out: Path) -> None:
    scratch.chmod(0o755)
    for file in scratch.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    if out.exists() or out.is_symlink():
        # A folder cannot be replaced in one step: the old one is set aside first, then dropped.
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.{os.getpid()}@{_node()}.", dir=out.parent))
        out.rename(old / "old")
        scratch.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        scratch.rename(out)


def _sweep(out: Path) -> None:
    """Remove scratch folders of this output whose process is gone; bring back what one set aside."""
    for scratch in out.parent.glob(f".{out.name}.*.*"):
        owner, _, node = scratch.name.removeprefix(f".{out.name}.").partition(".")[0].partition("@")
        if not owner.isdigit() or node != _node() or _alive(int(owner)):
            continue
        if (scratch / "old").exists() and not out.exists():
            (scratch / "old").rename(out)
        shutil.rmtree(scratch, ignore_errors=True)


def _node() -> str:
    """Return this machine's name: several may share a file system, and each knows its own processes only."""
    return platform.node().replace(".", "-")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A killed process answers until its parent has asked for its exit status; in a container, that may be never.
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state != "Z"


def seal(folder: Path, card: Card) -> Card:
    """Write ``artifact.json`` into a folder, with the sha256 of every other file in it."""
    files = {
        str(file.relative_to(folder)): sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != CARD_NAME
    }
    card = replace(card, files=files)
    (folder / CARD_NAME).write_text(card.to_json(), encoding="utf-8")
    return card
