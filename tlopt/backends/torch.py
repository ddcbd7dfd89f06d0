"""Runs torch artifacts with PyTorch."""

from __future__ import annotations

import importlib
import os
import shutil
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from tlopt.artifact import Artifact
from tlopt.environment import cores, waiting
from tlopt.errors import StageError
from tlopt.networks import layout
from tlopt.sources import open_model

READS = ("torch",)
# A name is a processor and how the network runs on it: compiled by torch.compile, with autocast, or (half) with its
# weights in fp16 throughout.
DEVICES = (
    "cpu", "cuda", "cpu-compiled", "cuda-compiled", "cpu-bf16", "cuda-fp16", "cuda-bf16", "cuda-fp16-compiled",
    "cuda-half", "cuda-half-compiled",
)  # fmt: skip
_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}

_WARM = 5  # runs of a profile that are not counted
_STAGED = 1 << 20  # bytes: smaller batches reach a GPU sooner the driver's own way
_SHAPES = 64  # batch sizes that a network is compiled for, all runners of its kind together


class Runner:
    """Runs the network in evaluation mode, channels last if it works so, without gradients.

    A call copies the batch to the device and the logits back, and waits for them.
    """

    def __init__(self, artifact: Artifact, *, device: str = "", threads: int = 0, callers: int = 1) -> None:
        """Rebuild the network and move it to the device.

        Raises:
            StageError: The device cannot be used here.
        """
        device = device or DEVICES[0]
        if reason := problem(device):
            raise StageError(
                f"torch cannot run {artifact.path} on {device}: {reason}", hint="tlopt doctor lists what runs here."
            )
        processor, *manner = device.split("-")
        self.name = f"torch:{device}"
        self._device = torch.device(processor)
        self._autocast = next((_AUTOCAST[name] for name in manner if name in _AUTOCAST), None)
        self.callers = callers if processor == "cpu" and "compiled" not in manner else 1
        self._before = torch.get_num_threads()
        self._threads = max(1, (threads or cores()) // self.callers)
        module = layout.lay(open_model(artifact), self._device)
        torch.set_num_threads(self._threads)  # nobody gives them back if the network cannot be opened
        memory_format = layout.name_of(module)
        self._half = "half" in manner
        module = module.half() if self._half else module
        self._module = _compiled(module, graphs=processor == "cuda") if "compiled" in manner else module
        cudnn: Any = torch.backends.cudnn
        self._pinned: torch.Tensor | None = None
        self._benchmark = cudnn.benchmark
        cudnn.benchmark = cudnn.benchmark or processor == "cuda"  # the sizes stay the same
        self.conditions = {
            "threads": torch.get_num_threads(),
            "callers": self.callers,
            "device": torch.cuda.get_device_name() if processor == "cuda" else processor,
            "compiled": "compiled" in manner,
            **({"half_weights": True} if self._half else {}),
            "autocast": next((name for name in manner if name in _AUTOCAST), ""),
            "memory_format": memory_format,
            "openmp": waiting(),
            "torch": torch.__version__,
            **({"cuda": torch.version.cuda, "cudnn": cudnn.version()} if processor == "cuda" else {}),
        }

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (n, classes), of a batch of float32 (n, 3, h, w)."""
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # the number is each calling thread's own
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, dtype=self._autocast, enabled=self._autocast is not None),
        ):
            batch = torch.from_numpy(inputs)
            try:
                if self._device.type == "cuda":
                    batch = self._moved(batch)
                batch = batch.to(torch.half if self._half else batch.dtype, memory_format=torch.channels_last)
                logits: np.ndarray = self._module(batch).float().cpu().numpy()
            except BaseException:
                self._pinned = None  # a copy from it may be under way
                raise
        return logits

    def _moved(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the batch on the GPU, in the network's own type.

        It goes through page-locked memory, which all cores fill: the driver's own way from other memory is one core's.
        256 images of 224 px took 7 instead of 19 ms to an H200, and 3 ms in fp16 (benchmarks/gpu.py, host-copies).
        """
        kind = torch.half if self._half else batch.dtype
        if kind == batch.dtype and batch.nbytes < _STAGED:
            return batch.to(self._device)
        held = self._pinned
        if held is None or held.dtype != kind or held.shape[1:] != batch.shape[1:] or len(held) < len(batch):
            held = self._pinned = torch.empty(batch.shape, dtype=kind, pin_memory=True)
        held = held[: len(batch)]
        held.copy_(batch)
        return held.to(self._device, non_blocking=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self._before)
        torch.backends.cudnn.benchmark = self._benchmark
        del self._module, self._pinned
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def profile(
    artifact: Artifact, inputs: np.ndarray, *, device: str = "", threads: int = 0, runs: int = 20
) -> list[tuple[str, str, float]]:
    """Return each layer's name, class and mean milliseconds, from torch's own profiler.

    The layers are the network's modules without modules inside.
    """
    with Runner(artifact, device=device, threads=threads) as runner:
        return _recorded(runner, inputs, runs)


def _recorded(runner: Runner, inputs: np.ndarray, runs: int) -> list[tuple[str, str, float]]:
    network: Any = runner._module
    leaves = {name: module for name, module in network.named_modules() if not any(module.children())}
    open_scopes: list[Any] = []

    def enter(name: str) -> None:
        open_scopes.append(torch.profiler.record_function(f"layer:{name}"))
        open_scopes[-1].__enter__()

    for _ in range(_WARM):
        runner(inputs)
    hooks = []
    for name, module in leaves.items():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
        hooks.append(module.register_forward_hook(lambda *_: open_scopes.pop().__exit__(None, None, None)))
    with torch.profiler.profile() as recorded:
        for _ in range(runs):
            runner(inputs)
    for hook in hooks:
        hook.remove()
    gpu = runner._device.type == "cuda"
    totals = {event.key: event.device_time_total if gpu else event.cpu_time_total for event in recorded.key_averages()}
    return [
        (name, type(module).__name__, totals[f"layer:{name}"] / runs / 1e3)
        for name, module in leaves.items()
        if f"layer:{name}" in totals
    ]


def _compiled(module: Any, *, graphs: bool = False) -> Any:
    """Compile a module, anew for each batch size; with `graphs` its kernels are launched as CUDA graphs.

    The mode "max-autotune" would also try out kernels, which takes minutes for each batch size. After some sizes, 8
    unless told, torch would go on uncompiled without a word.
    """
    config: Any = importlib.import_module("torch._dynamo.config")
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before torch 2.7
    setattr(config, name, max(_SHAPES, getattr(config, name)))
    if hasattr(config, "fail_on_recompile_limit_hit"):
        config.fail_on_recompile_limit_hit = True
    compile_: Any = torch.compile
    return compile_(module, dynamic=False, **({"mode": "reduce-overhead"} if graphs else {}))


def problem(device: str = "") -> str:
    """Return why torch cannot run on a device here, found by running a convolution; empty if it can."""
    processor = (device or DEVICES[0]).partition("-")[0]
    if processor == "cuda" and torch.version.cuda is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    if processor == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if device == "cpu-compiled" and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "torch.compile needs a C++ compiler and finds no g++\nsudo apt-get install g++"
    compiler = os.environ.get("CC", "")
    if processor == "cuda" and device.endswith("compiled") and not any(map(shutil.which, (compiler, "gcc", "clang"))):
        return "torch.compile needs a C compiler and finds no gcc\nsudo apt-get install gcc"
    try:
        with torch.inference_mode():
            image: Any = torch.ones(1, 3, 8, 8, device=processor)
            torch.nn.functional.conv2d(image, image).sum().item()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return ""
