"""Cards that earlier versions wrote, as this version writes them.

Nothing that an artifact's digest is made of changes, so that recipes keep their steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def migrate(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card of schema 1, of tlopt 0.1.0, in the form of schema 2.

    There, details were a flat mapping: an exported graph's held those of its torch network among its own,
    and what `quantize` found lay beside both. Keys that nothing reads are left out. What is
    of a wrong type stays as it is; the check that follows names it.
    """
    details = raw.get("details")
    kind = raw.get("kind")
    change = _CHANGES.get(kind) if isinstance(kind, str) else None
    if not isinstance(details, dict) or change is None:
        return {**raw, "schema": 2}
    return {**raw, "schema": 2, "details": change(_finite(details))}


# The keys of schema 1, by what they tell of. They are written out: what later versions add to the details must
# not take the values of other things for its own.
_TORCH = ("groups", "macs", "pruned", "qat", "metrics", "unreadable")
_ONNX = ("opset", "parity")
_QUANTIZED = (
    "runtime", "calibration_images", "quantizer", "reduce_range", "float_blocks", "float_nodes", "sensitivity",
    "measured",
)  # fmt: skip
_ENGINE = ("flavour", "version", "cuda", "targets", "gpu", "profile", "options", "inspector", "onnx")


def _torch(details: Mapping[str, Any]) -> dict[str, Any]:
    return _only(details, _TORCH)


def _onnx(details: Mapping[str, Any]) -> dict[str, Any]:
    made = _only(details, _ONNX)
    batch = details.get("batch")
    if isinstance(batch, list) and len(batch) == 2 and batch[0] == batch[1]:
        made["fixed_batch"] = batch[0]
    if network := _only(details, _TORCH):
        made["network"] = network
    if "runtime" in details:
        made["quantized"] = _only(details, _QUANTIZED)
    return made


def _engine(details: Mapping[str, Any]) -> dict[str, Any]:
    return _only(details, _ENGINE)


_CHANGES = {"torch": _torch, "onnx": _onnx, "tensorrt": _engine}


def _only(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def _finite(value: Any) -> Any:
    """Return a value with None for each number that is not finite, which 0.1.0 wrote into records of trainings."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
