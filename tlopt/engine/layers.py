"""What is inside a built engine: its layers, from the engine inspector or the builder's own listing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlopt.cards.details import Inspector
from tlopt.errors import ArtifactError, wrong_with
from tlopt.reading.files import read_text
from tlopt.reading.schema import convert, parse_json


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The layers of an engine.

    Attributes:
        source: "inspector", or "builder log" where there is no GPU to open the engine on.
        rows: One per layer: name, type, tactic, onnx (the nodes it computes), inputs and outputs
            (their types; constants are not among the inputs), weights (their type, where the inspector
            gives it). Types are "" where the inspector does not tell them: that of TensorRT 10 tells none
            of tensors with a dynamic batch.
    """

    source: str
    rows: tuple[Mapping[str, Any], ...]

    def to_json(self) -> str:
        """Return the text of ``layers.json``."""
        return json.dumps({"source": self.source, "layers": self.rows}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Layers:
        """Rebuild from `to_json`.

        Raises:
            SchemaError: The text is no listing of layers.
        """
        found = convert(parse_json(text), _Listing)
        return cls(source=found.source, rows=tuple(asdict(row) for row in found.layers))

    @property
    def summary(self) -> Inspector:
        """Counts for the card: layers, how many of each type, and what types go in and out of them.

        Whether int8 has arrived shows in the inputs or weights: a layer that reads "Int8" computes in it.
        """
        types = Counter(str(row["type"]) for row in self.rows)
        inputs = Counter(kind or "unknown" for row in self.rows for kind in row["inputs"])
        weights = Counter(row["weights"] for row in self.rows if row["weights"])
        outputs = Counter(kind or "unknown" for row in self.rows for kind in row["outputs"])
        return Inspector(
            source=self.source,
            layers=len(self.rows),
            types=dict(types.most_common()),
            inputs=dict(inputs.most_common()),
            weights=dict(weights.most_common()),
            outputs=dict(outputs.most_common()),
        )

    def computes_in(self, kind: str) -> bool | None:
        """Return whether any layer reads tensors or weights of a type; None where no type of any is told."""
        told = {found for row in self.rows for found in (*row["inputs"], row["weights"]) if found}
        return kind in told if told else None


def read_types(file: Path) -> dict[str, str]:
    """Return the type of each layer by its name, from ``layers.json``.

    Raises:
        ArtifactError: The file cannot be read.
    """
    try:
        return {row["name"]: row["type"] for row in Layers.from_json(read_text(file)).rows}
    except (OSError, ValueError) as error:
        wrong, hint = wrong_with(error, "Build the engine again.")
        raise ArtifactError(f"{file} {wrong}.", hint=hint) from error


@dataclass(frozen=True, kw_only=True)
class _Row:
    name: str
    type: str
    tactic: str
    onnx: tuple[str, ...]
    inputs: tuple[str, ...]
    weights: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """The content of ``layers.json``."""

    source: str
    layers: tuple[_Row, ...]


def from_inspector(text: str) -> Layers:
    """Read `EngineInspector.get_engine_information` in JSON.

    Layers are objects where the engine was built with detailed profiling, else bare names.
    """
    rows = []
    for layer in json.loads(text).get("Layers", []):
        if isinstance(layer, str):
            layer = {"Name": layer}
        rows.append(
            {
                "name": layer.get("Name", ""),
                "type": layer.get("LayerType", ""),
                "tactic": layer.get("TacticName", ""),
                "onnx": _onnx(layer.get("Metadata", "")),
                "inputs": [_type(tensor) for tensor in layer.get("Inputs", [])],
                "weights": layer.get("Weights", {}).get("Type", ""),
                "outputs": [_type(tensor) for tensor in layer.get("Outputs", [])],
            }
        )
    return Layers(source="inspector", rows=tuple(rows))


_LISTED = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<type>.*?), Inputs: \[(?P<inputs>.*?)\], (?:Constants: \[.*\], )?"
    r"Outputs: \[(?P<outputs>.*)\], .*?TacticName: (?P<tactic>.*?), StreamId: -?\d+, Metadata: (?P<metadata>.*)$"
)


def from_log(text: str) -> Layers:
    """Read the listing that the builder prints when profiling is detailed."""
    rows = []
    for line in text.splitlines():
        if found := _LISTED.match(line):
            rows.append(
                {
                    "name": found["name"],
                    "type": found["type"],
                    "tactic": found["tactic"],
                    "onnx": _onnx(found["metadata"]),
                    "inputs": re.findall(r"Datatype: (\w+)", found["inputs"]),
                    "weights": "",
                    "outputs": re.findall(r"Datatype: (\w+)", found["outputs"]),
                }
            )
    return Layers(source="builder log", rows=tuple(rows))


def _onnx(metadata: str) -> list[str]:
    return re.findall(r"\[ONNX Layer: ([^\]]*)\]", metadata)


# What older inspectors call a type within a format's description -> what newer ones call it.
_TYPES = {"FP32": "Float", "FP16": "Half", "BF16": "BFloat16", "INT8": "Int8"}


def _type(tensor: Mapping[str, Any]) -> str:
    """Return a tensor's type; TensorRT 10 gives it within the format's description."""
    if kind := tensor.get("Datatype") or tensor.get("DataType"):
        return str(kind)
    found = re.search(
        r"\b(FP32|Float|FP16|Half|BF16|BFloat16|Int8|INT8|FP8|Int32|Bool)\b", tensor.get("Format/Datatype", "")
    )
    return _TYPES.get(found[1], found[1]) if found else ""
