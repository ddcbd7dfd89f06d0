"""The network, run by ONNX Runtime on the processor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# It would report its use to its maker, and reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class Network:
    """A batch in, logits out; several threads may call it at once."""

    def __init__(self, file: Path, *, threads: int = 0, settings: Mapping[str, Any]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for name, value in settings.items():
            options.add_session_config_entry(name, value)
        self._session = onnxruntime.InferenceSession(
            str(file),
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # which prints to stdout
        )
        entry = self._session.get_inputs()[0]
        self._input, self._type = entry.name, _TYPES.get(entry.type, np.float32)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (n, classes)."""
        feed = {self._input: np.ascontiguousarray(inputs, dtype=self._type)}
        return np.asarray(self._session.run(None, feed)[0], dtype=np.float32)
