"""What ``config.pbtxt`` says of a model: Triton's ModelConfig, as far as classifiers need it.

The fields are those of ``model_config.proto`` in https://github.com/triton-inference-server/common, release 24.10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tlopt.deployment.triton.pbtxt import Word, text

LABELS = "labels.txt"
VERSION = "1"  # of the model, and the name of its folder

# Type of a tensor, as NumPy calls it -> as Triton does.
TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "float16": "TYPE_FP16", "object": "TYPE_STRING"}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or an output.

    Args:
        name: Its name.
        dtype: As NumPy calls it; "object" for bytes of any length.
        shape: Without the batch, unless `Batching` says that it has one; -1 for any size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How requests become batches.

    Args:
        most: Images of the largest batch; 0 if the shape of the inputs has the batch in it, fixed or -1.
        delay_us: How long a request may wait for others, microseconds.
        preferred: Sizes that are run at once, without waiting.
        dynamic: Whether requests of several clients are run together.
    """

    most: int
    delay_us: int = 0
    preferred: tuple[int, ...] = ()
    dynamic: bool = True

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that are run once when the model is loaded: powers of two up to the largest."""
        return tuple(sorted({*(2**power for power in range(int(math.log2(max(1, self.most))) + 1)), max(1, self.most)}))


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network in a repository.

    Args:
        name: Of its folder.
        backend: "onnxruntime", "openvino" or "tensorrt".
        file: Of its payload, in the folder of the version.
        files: Compute capability ("8.9") -> payload, where GPUs have files of their own.
        input: What it takes.
        output: What it answers.
        batching: How requests become batches.
        instances: How many are run at once.
        device: What they run on.
        parameters: What the backend is told.
    """

    name: str
    backend: str
    file: str
    files: Mapping[str, str] = field(default_factory=dict)
    input: Tensor
    output: Tensor
    batching: Batching
    instances: int
    device: Literal["CPU", "GPU"]
    parameters: Mapping[str, str] = field(default_factory=dict)

    def config(self) -> str:
        """Return the text of ``config.pbtxt``."""
        batching: dict[str, Any] = {}
        if self.batching.dynamic and self.batching.most > 1:
            batching["dynamic_batching"] = {
                **({"preferred_batch_size": self.batching.preferred} if self.batching.preferred else {}),
                "max_queue_delay_microseconds": self.batching.delay_us,
            }
        return text(
            {
                "name": self.name,
                "backend": self.backend,
                "default_model_filename": self.file,
                **({"cc_model_filenames": _map(self.files)} if self.files else {}),
                "max_batch_size": self.batching.most,
                "input": [_tensor(self.input)],
                "output": [{**_tensor(self.output), "label_filename": LABELS}],
                "version_policy": {"latest": {"num_versions": 1}},
                "instance_group": [{"count": self.instances, "kind": Word(f"KIND_{self.device}")}],
                **batching,
                **({"parameters": _parameters(self.parameters)} if self.parameters else {}),
                "model_warmup": [self._warm_up(size) for size in self.batching.sizes],
            }
        )

    def _warm_up(self, size: int) -> dict[str, Any]:
        dims = tuple(max(1, side) for side in self.input.shape)
        zeros = {"data_type": Word(TYPES[self.input.dtype]), "dims": dims, "zero_data": True}
        return {"name": f"batch_{size}", "batch_size": size, "inputs": {"key": self.input.name, "value": zeros}}


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The Python step that makes a network's inputs of image files.

    Args:
        name: Of its folder.
        input: The files' bytes.
        output: The network's input.
        most: Images of the largest batch, 0 as in `Batching`.
        instances: How many decode at once, each in a process of its own.
    """

    name: str
    input: Tensor
    output: Tensor
    most: int
    instances: int

    def config(self) -> str:
        """Return the text of ``config.pbtxt``."""
        return text(
            {
                "name": self.name,
                "backend": "python",
                "max_batch_size": self.most,
                "input": [_tensor(self.input)],
                "output": [_tensor(self.output)],
                "version_policy": {"latest": {"num_versions": 1}},
                "instance_group": [{"count": self.instances, "kind": Word("KIND_CPU")}],
            }
        )


def ensemble(name: str, decoder: Decoder, network: Model) -> str:
    """Return the ``config.pbtxt`` of a model that decodes and then runs a network.

    Args:
        name: Of its folder.
        decoder: Its first step.
        network: Its second.
    """
    between = network.input.name
    steps = [
        _step(decoder.name, {decoder.input.name: decoder.input.name}, {decoder.output.name: between}),
        _step(network.name, {network.input.name: between}, {network.output.name: network.output.name}),
    ]
    return text(
        {
            "name": name,
            "platform": "ensemble",
            "max_batch_size": network.batching.most,
            "input": [_tensor(decoder.input)],
            "output": [{**_tensor(network.output), "label_filename": LABELS}],
            "version_policy": {"latest": {"num_versions": 1}},
            "ensemble_scheduling": {"step": steps},
        }
    )


def _step(name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    return {"model_name": name, "model_version": -1, "input_map": _map(inputs), "output_map": _map(outputs)}


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": Word(TYPES[tensor.dtype]), "dims": tensor.shape}


def _map(entries: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in entries.items()]


def _parameters(entries: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"string_value": value}} for key, value in entries.items()]
