"""What is inside a built engine: its layers, from the engine inspector or the builder's own listing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The layers of an engine.

    Attributes:
        source: "inspector", or "builder log" where there is no GPU to open the engine on.
        rows: One per layer: name, type, tactic, onnx (the nodes it computes), outputs (their types).
    """

    source: str
    rows: tuple[Mapping[str, Any], ...]

    def to_json(self) -> str:
        """Return the text of ``layers.json``."""
        return json.dumps({"source": self.source, "layers": self.rows}, indent=1) + "\n"

    @property
    def summary(self) -> dict[str, Any]:
        """Counts for the card: layers, and how many of each type and output type."""
        types = Counter(str(row["type"]) for row in self.rows)
        outputs = Counter(kind for row in self.rows for kind in row["outputs"])
        return {
            "source": self.source,
            "layers": len(self.rows),
            "types": dict(types.most_common()),
            "outputs": dict(outputs.most_common()),
        }


def from_inspector(text: str) -> Layers:
    """Read `EngineInspector.get_engine_information` in JSON.

    Layers are objects where the engine was built with detailed profiling, else bare names.
    """
    rows = []
    for layer in json.loads(text).get("Layers", []):
        if isinstance(layer, str):
            rows.append({"name": layer, "type": "", "tactic": "", "onnx": [], "outputs": []})
            continue
        rows.append(
            {
                "name": layer.get("Name", ""),
                "type": layer.get("LayerType", ""),
                "tactic": layer.get("TacticName", ""),
                "onnx": _onnx(layer.get("Metadata", "")),
                "outputs": [_type(output) for output in layer.get("Outputs", [])],
            }
        )
    return Layers(source="inspector", rows=tuple(rows))


_LISTED = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<type>.*?), Inputs: \[.*?\], (?:Constants: \[.*\], )?"
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
                    "outputs": re.findall(r"Datatype: (\w+)", found["outputs"]),
                }
            )
    return Layers(source="builder log", rows=tuple(rows))


def _onnx(metadata: str) -> list[str]:
    return re.findall(r"\[ONNX Layer: ([^\]]*)\]", metadata)


def _type(tensor: Mapping[str, Any]) -> str:
    """Return a tensor's type; older inspectors give it only within the format's description."""
    return str(tensor.get("Datatype") or tensor.get("Format/Datatype", ""))
