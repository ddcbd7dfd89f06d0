"""The card of an artifact: everything that a later stage needs to know about its payload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tlopt.errors import ArtifactError
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
        return {"schema": SCHEMA, **plain(self)}

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


def plain(value: Any) -> Any:
    """Return dataclasses, tuples and paths as JSON types."""
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
