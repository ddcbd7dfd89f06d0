"""Stands in for Triton's own ONNX Runtime or OpenVINO backend: it reads the same configuration and the same file.

The server loads it as a backend that is written in Python. It refuses what the backend in its place refuses: tensors
that the network does not have, other types or shapes, and batches for a network with a fixed one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# Names, types as NumPy calls them, and shapes with -1 for any size.
_Signature = dict[str, tuple[str, tuple[int, ...]]]
_Run = Callable[[np.ndarray], np.ndarray]


class TritonPythonModel:
    """Runs a network with one input and one output."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the network.

        Args:
            args: What the server says of the model.

        Raises:
            TritonModelException: The configuration is not that of the network.
        """
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        told = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        opened = {"onnxruntime": _onnxruntime, "openvino": _openvino}[config["backend"]]
        file = os.path.join(folder, config["default_model_filename"])
        inputs, outputs, self._run = opened(file, config["input"][0]["name"], told)
        self._only = config["max_batch_size"] if config["backend"] == "openvino" else 0
        for declared, found in ((config["input"], inputs), (config["output"], outputs)):
            _expect(declared, found, batched=config["max_batch_size"] > 0)
        self._batched = config["max_batch_size"] > 0
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the images of all requests as one batch, and return one response for each.

        If that fails, each request is run alone: an error is the answer to the request that caused it.
        """
        inputs = [pb_utils.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        if self._only and (images := sum(map(len, inputs))) != self._only:
            # As Triton's own OpenVINO backend does: it compiles the network for the largest batch alone.
            wrong = pb_utils.TritonError(f"expected requests with batch size {self._only}, got {images}")
            return [pb_utils.InferenceResponse(error=wrong) for _ in requests]
        try:
            if self._batched:
                every = self._run(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
                answers = np.split(every, np.cumsum([len(one) for one in inputs])[:-1])
            else:
                answers = [self._run(one) for one in inputs]
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises is an answer to the client, not the server's end
            if len(requests) > 1 and not self._only:
                return [response for request in requests for response in self.execute([request])]
            failed = pb_utils.TritonError(f"{type(error).__name__}: {error}")
            return [pb_utils.InferenceResponse(error=failed) for _ in requests]
        return [
            pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(self._output, np.ascontiguousarray(answer))])
            for answer in answers
        ]


def _onnxruntime(file: str, name: str, told: dict[str, str]) -> tuple[_Signature, _Signature, _Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(told.get("intra_op_thread_count", 0)) or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads would take the cores of the server and of the other instances.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16", "tensor(uint8)": "TYPE_UINT8"}

    def signature(tensors: Any) -> _Signature:
        return {
            one.name: (types.get(one.type, one.type), tuple(d if isinstance(d, int) else -1 for d in one.shape))
            for one in tensors
        }

    def run(inputs: np.ndarray) -> np.ndarray:
        answers: np.ndarray = session.run(None, {name: inputs})[0]
        return answers

    return signature(session.get_inputs()), signature(session.get_outputs()), run


def _openvino(file: str, name: str, told: dict[str, str]) -> tuple[_Signature, _Signature, _Run]:
    import openvino

    asked = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    asked.update({key: told[key] for key in ("INFERENCE_NUM_THREADS", "NUM_STREAMS") if key in told})
    compiled = openvino.Core().compile_model(file, "CPU", asked)
    types = {"f32": "TYPE_FP32", "f16": "TYPE_FP16", "u8": "TYPE_UINT8"}

    def signature(ports: Any) -> _Signature:
        return {
            one.any_name: (
                types.get(one.element_type.get_type_name(), str(one.element_type)),
                tuple(-1 if d.is_dynamic else d.get_length() for d in one.partial_shape),
            )
            for one in ports
        }

    request = compiled.create_infer_request()

    def run(inputs: np.ndarray) -> np.ndarray:
        answers: np.ndarray = request.infer({name: inputs})[compiled.output(0)].copy()
        return answers

    return signature(compiled.inputs), signature(compiled.outputs), run


def _expect(declared: list[dict[str, Any]], found: _Signature, *, batched: bool) -> None:
    """Compare what the configuration says of tensors with what the network has.

    Raises:
        TritonModelException: They differ.
    """
    for tensor in declared:
        name, dims = tensor["name"], tuple(int(d) for d in tensor["dims"])
        if name not in found:
            raise pb_utils.TritonModelException(f"the network has no tensor {name!r}; it has {sorted(found)}")
        dtype, shape = found[name]
        if dtype != tensor["data_type"]:
            raise pb_utils.TritonModelException(f"{name}: the network has {dtype}, not {tensor['data_type']}")
        if batched and shape[0] != -1:
            raise pb_utils.TritonModelException(f"{name}: the network has the fixed batch {shape[0]}")
        of_one = shape[1:] if batched else shape
        if len(of_one) != len(dims) or any(
            -1 not in pair and pair[0] != pair[1] for pair in zip(of_one, dims, strict=True)
        ):
            raise pb_utils.TritonModelException(f"{name}: the network has the shape {of_one}, not {dims}")
