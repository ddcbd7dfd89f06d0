"""A folder like that of a TensorRT engine: its card is whole, and its plan is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlopt.artifact import Artifact, seal
from tlopt.cards.card import Card
from tlopt.cards.details import EngineDetails
from tlopt.preprocess import Preprocess
from tlopt.publishing import draft
from tlopt.reading.schema import convert

GPU = {"name": "NVIDIA Test GPU", "capability": "sm89", "driver_cuda": "13.0"}
_DETAILS: dict[str, Any] = {
    "flavour": "tensorrt",
    "version": "10.13.2.6",
    "cuda": "13",
    "targets": ["sm89"],
    "gpu": GPU,
    "profile": {
        "input": "images",
        "output": "logits",
        "shape": [3, 2, 2],
        "dtype": "float32",
        "min_batch": 2,
        "opt_batch": 4,
        "max_batch": 4,
    },
    "options": {
        "min_batch": 2,
        "opt_batch": 4,
        "max_batch": 4,
        "version_compatible": False,
        "hardware_compatible": "no",
        "strip_weights": False,
        "refit": False,
    },
    "inspector": {"source": "inspector", "layers": 0, "types": {}, "inputs": {}, "outputs": {}},
    "onnx": {"artifact": "0" * 64, "sha256": "0" * 64, "path": "../onnx/model.onnx"},
}


def write_engine(folder: Path, **changes: Any) -> Artifact:
    """Write an engine of four classes, with some of its details changed."""
    details = dict(_DETAILS)
    for name, value in changes.items():
        details[name] = {**details[name], **value} if isinstance(value, dict) else value
    with draft(folder, force=True) as scratch:
        (scratch / "model.engine").write_bytes(b"a plan")
        card = Card(
            kind="tensorrt",
            model="test:tiny",
            precision="fp32",
            classes=("a", "b", "c", "d"),
            preprocess=Preprocess(size=2),
            details=convert(details, EngineDetails),
        )
        seal(scratch, card)
    return Artifact.load(folder)
