"""What a card says about one kind of artifact: of a torch network, of an ONNX graph, of an engine.

The card's ``details`` are one of `TorchDetails`, `OnnxDetails` and `EngineDetails`.
"""

from __future__ import annotations

from collections.abc import Mapping

from tlopt.cards.engine_details import (
    BuiltFrom,
    EngineDetails,
    EngineOptions,
    Gpu,
    Inspector,
    Profile,
    TimingCache,
)
from tlopt.cards.onnx_details import (
    BesideSource,
    BlockAlone,
    Measured,
    OnnxDetails,
    Parity,
    Quantized,
    Sensitivity,
    TradeOff,
)
from tlopt.cards.outputs import Output, OutputError
from tlopt.cards.torch_details import (
    Macs,
    Pruned,
    Rival,
    Speedup,
    Split,
    TorchDetails,
    TrainedScales,
)
from tlopt.cards.words import (
    AnswerKind,
    Runtime,
    Task,
)

__all__ = [
    "KINDS",
    "AnswerKind",
    "BesideSource",
    "BlockAlone",
    "BuiltFrom",
    "Details",
    "EngineDetails",
    "EngineOptions",
    "Gpu",
    "Inspector",
    "Macs",
    "Measured",
    "OnnxDetails",
    "Output",
    "OutputError",
    "Parity",
    "Profile",
    "Pruned",
    "Quantized",
    "Rival",
    "Runtime",
    "Sensitivity",
    "Speedup",
    "Split",
    "Task",
    "TimingCache",
    "TorchDetails",
    "TradeOff",
    "TrainedScales",
]

Details = TorchDetails | OnnxDetails | EngineDetails
KINDS: Mapping[str, type[Details]] = {"torch": TorchDetails, "onnx": OnnxDetails, "tensorrt": EngineDetails}
