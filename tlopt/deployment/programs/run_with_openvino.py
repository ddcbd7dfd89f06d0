"""The network, run by OpenVINO on the processor."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino


class Network:
    """A batch in, logits out; several threads may call it at once, each with a request of its own."""

    def __init__(self, file: Path, *, threads: int = 0, settings: Mapping[str, Any]) -> None:
        core = openvino.Core()
        count = threads or len(os.sched_getaffinity(0))
        self._compiled = core.compile_model(str(file), "CPU", {"INFERENCE_NUM_THREADS": count, **settings})
        self._type = self._compiled.input(0).get_element_type().to_dtype()
        self._own = threading.local()

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (n, classes)."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        results = self._own.request.infer({0: np.ascontiguousarray(inputs, dtype=self._type)})
        return np.array(results[self._compiled.output(0)], dtype=np.float32)
