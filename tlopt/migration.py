"""Cards that earlier versions wrote, as this version writes them.

Nothing that an artifact's digest is made of changes, so that recipes keep their steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tlopt.details import EngineDetails, Measured, OnnxDetails, Quantized, Sensitivity, TorchDetails


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


def _torch(details: Mapping[str, Any]) -> dict[str, Any]:
    return _only(details, TorchDetails)


def _onnx(details: Mapping[str, Any]) -> dict[str, Any]:
    made = _only(details, OnnxDetails)
    batch = details.get("batch")
    if isinstance(batch, list) and len(batch) == 2 and batch[0] == batch[1]:
        made["fixed_batch"] = batch[0]
    if network := _only(details, TorchDetails):
        made["network"] = network
    if "runtime" in details:
        made["quantized"] = _quantized(details)
    return made


def _quantized(details: Mapping[str, Any]) -> dict[str, Any]:
    made = _only(details, Quantized)
    for name, kind in (("measured", Measured), ("sensitivity", Sensitivity)):
        if isinstance(made.get(name), dict):
            made[name] = _only(made[name], kind)
    return made


def _engine(details: Mapping[str, Any]) -> dict[str, Any]:
    return _only(details, EngineDetails)


_CHANGES = {"torch": _torch, "onnx": _onnx, "tensorrt": _engine}


def _only(given: Mapping[str, Any], kind: type) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in given.items() if name in names}


def _finite(value: Any) -> Any:
    """Return a value with None for each number that is not finite, which 0.1.0 wrote into records of trainings."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
