"""The first step of a model that takes image files: it decodes them as tlopt does, by the file beside it.

Triton's Python backend runs this. It needs NumPy and Pillow.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Turns the bytes of image files into the network's inputs."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the decoding.

        Args:
            args: What the server says of the model.
        """
        config = json.loads(args["model_config"])
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        self._decoding = _load(os.path.join(args["model_repository"], args["model_version"], "decoding.py"))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response for each request: its inputs, or the reason why an image cannot be read."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        files = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy().reshape(-1)
        if not len(files):
            return _refusal("The request holds no image.", pb_utils.TritonError.INVALID_ARG)
        try:
            inputs = np.stack([self._decoding.PREPROCESS(io.BytesIO(content)) for content in files])
        except self._decoding.ImagesError as error:
            return _refusal(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # noqa: BLE001 - it would fail the other requests, too
            return _refusal(f"{type(error).__name__}: {error}")
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(self._output, inputs)])


def _refusal(text: str, *code: int) -> Any:
    """Return a response that says on one line why there is no answer."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(" ".join(text.split()), *code))


def _load(file: str) -> Any:
    """Import a file by its place: no other module of its name is asked for."""
    spec = importlib.util.spec_from_file_location("decoding_of_this_model", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
