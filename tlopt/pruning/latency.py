"""What layers cost in time on ONNX Runtime's CPU, and how much faster one network is than another."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tlopt.errors import ArtifactError
from tlopt.graphs.cleaning import clean
from tlopt.graphs.rewriting.constants import fold_constants
from tlopt.graphs.rewriting.pads import merge_pads
from tlopt.networks.tracing import trace
from tlopt.process import temporary
from tlopt.progress import track
from tlopt.pruning.channels import Layer, Network
from tlopt.sessions import open_session
from tlopt.timing import medians_ms

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)  # of a layer's width, at which it is timed
_CHUNK = 24  # layers timed in one graph: bounds the memory
_REPEATS = 7
_TURN_S = 0.3  # one network's turn, about
_TURNS = 5  # at least: a median of fewer runs says little
_FAST = 0.2  # quantile of a layer's timings that counts
_EXPORTED_OPSET = 18  # the oldest that the newer exporter writes
_IR_VERSION, _OPSET = 8, 17  # the oldest that the supported versions of ONNX Runtime share

# What decides a layer's time besides its widths: kind, kernel, stride, padding, dilation, groups, input size.
Shape = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Measured times of layers, for widths from an eighth to all of their channels.

    Args:
        times: Layer shape and batch -> input widths (i,), output widths (o,), milliseconds (i, o).
        batches: Batch sizes.
        whole: Batch -> milliseconds of the whole network.
        rest: Batch -> milliseconds of the whole network not spent in the layers, for each output
            value of a layer: activations, additions and pooling.
    """

    times: Mapping[tuple[Shape, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = field(repr=False)
    batches: tuple[int, ...]
    whole: Mapping[int, float]
    rest: Mapping[int, float]

    def cost(self, layer: Layer, removed: Mapping[str, int]) -> float:
        """Return a layer's share of the network's time, the mean over the batch sizes."""
        inputs, outputs = layer.widths(removed)
        return sum(self._milliseconds(layer, inputs, outputs, batch) / self.whole[batch] for batch in self.batches) / (
            len(self.batches)
        )

    def _milliseconds(self, layer: Layer, inputs: int, outputs: int, batch: int) -> float:
        rows, columns, times = self.times[_shape(layer), batch]
        own = _interpolate(rows, columns, times, inputs, outputs)
        return own + self.rest[batch] * outputs * layer.area


def measure(model: nn.Module, network: Network, size: int, batches: Sequence[int], *, threads: int = 0) -> Table:
    """Time each layer of a network, at several widths, in ONNX Runtime.

    ONNX Runtime's own profile gives the time of each layer's kernel alone, without the conversions of
    layout around a layer that stands by itself.

    Args:
        model: The network.
        network: Its groups and layers.
        size: Side of the square input, pixels.
        batches: Batch sizes.
        threads: Processor threads inside one run; 0 for one per core.
    """
    shapes = {_shape(layer): layer for layer in network.layers}
    jobs = [
        (shape, batch, inputs, outputs)
        for shape, layer in shapes.items()
        for batch in batches
        for inputs, outputs in _grid(layer)
    ]
    found: dict[tuple[Shape, int, int, int], float] = {}
    chunks = [jobs[i : i + _CHUNK] for i in range(0, len(jobs), _CHUNK)]
    for chunk in track(chunks, label="Timing layers", total=len(chunks)):
        for job, ms in zip(chunk, _profile([(shapes[j[0]], *j[1:]) for j in chunk], threads), strict=True):
            found[job] = ms
    times = {}
    for shape, layer in shapes.items():
        for batch in batches:
            grid = _grid(layer)
            rows, columns = (np.array(sorted({pair[axis] for pair in grid})) for axis in (0, 1))
            if layer.is_depthwise:
                values = np.array([[found[shape, batch, c, c]] for c in rows])
                times[shape, batch] = rows, columns[-1:], values
            else:
                values = np.array([[found[shape, batch, i, o] for o in columns] for i in rows])
                times[shape, batch] = rows, columns, values
    whole = compare([model], size, batches, threads=threads)[0]
    rest = {}
    for batch in batches:
        layers = sum(
            _interpolate(*times[_shape(layer), batch], *layer.widths({}))  # the whole layer's own time
            for layer in network.layers
        )
        values_made = sum(layer.widths({})[1] * layer.area for layer in network.layers)
        rest[batch] = max(0.0, whole[batch] - layers) / values_made
    return Table(times=times, batches=tuple(batches), whole=whole, rest=rest)


def compare(
    models: Sequence[nn.Module],
    size: int | Sequence[int],
    batches: Sequence[int],
    *,
    threads: int = 0,
    seconds: float = 1.5,
) -> list[dict[int, float]]:
    """Return each network's time per run in ONNX Runtime for each batch size, milliseconds.

    The networks take turns, so that what disturbs the machine disturbs all of them, and the median
    counts, as in `tlopt bench`.

    Args:
        models: The networks.
        size: Side of the square input, pixels: of all networks, or of each.
        batches: Batch sizes.
        threads: Processor threads inside one run; 0 for one per core.
        seconds: Time measured of each network and batch size.
    """
    sizes = [size] * len(models) if isinstance(size, int) else size
    sessions = [open_session(to_onnx(model, own), threads=threads) for model, own in zip(models, sizes, strict=True)]
    result: list[dict[int, float]] = [{} for _ in models]
    random = np.random.default_rng(0)
    turns = max(_TURNS, round(seconds / _TURN_S))
    for batch in batches:
        images = [random.standard_normal((batch, 3, own, own), dtype=np.float32) for own in sizes]
        calls = [partial(session.run, None, {"images": own}) for session, own in zip(sessions, images, strict=True)]
        for entry, median in zip(result, medians_ms(calls, seconds=seconds, turns=turns), strict=True):
            entry[batch] = median
    return result


def to_onnx(model: nn.Module, size: int) -> bytes:
    """Return a network as ONNX, images -> logits, with a dynamic batch axis.

    The tracing exporter takes a second where the newer one, which `tlopt export` uses, takes ten; ONNX Runtime makes
    the same kernels of both. Where padding depends on the input's size (TensorFlow's "same"), the tracing exporter
    leaves it beside the convolutions, which would cost as much as they do: it becomes part of them afterwards.
    """
    target = io.BytesIO()
    mode, device = model.training, next(model.parameters()).device
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model.eval().to("cpu"),
                (torch.zeros(1, 3, size, size),),
                target,  # type: ignore[arg-type]  # the annotation leaves out the buffers it takes
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
                opset_version=_OPSET,
                dynamo=False,
            )
        traced = onnx.load_from_string(target.getvalue())
        if not _pads(traced):
            return target.getvalue()
        try:
            made = merge_pads(fold_constants(clean(traced)))
        except ArtifactError:  # it holds what cannot be merged into
            made = traced
        if _pads(made):
            made = trace(model, size, _EXPORTED_OPSET)[0]
        return bytes(made.SerializeToString())
    finally:
        model.train(mode).to(device)


def _pads(graph: onnx.ModelProto) -> bool:
    return any(node.op_type == "Pad" for node in graph.graph.node)


def _shape(layer: Layer) -> Shape:
    module = layer.module
    full = layer.widths({})
    if isinstance(module, nn.Linear):
        return ("linear", layer.area, full)
    groups = "depthwise" if layer.is_depthwise else module.groups
    pads = getattr(module, "widths", module.padding)  # unevenly padded convolutions carry their own
    return ("conv", module.kernel_size, module.stride, pads, module.dilation, groups, layer.size, full)


def _grid(layer: Layer) -> list[tuple[int, int]]:
    """Return the pairs of widths a layer is timed at."""
    inputs, outputs = layer.widths({})
    if layer.is_depthwise:
        return [(width, width) for width in _widths(outputs, 1)]
    groups = getattr(layer.module, "groups", 1)
    rows = _widths(inputs, groups) if layer.inputs else [inputs]
    columns = _widths(outputs, groups) if layer.outputs else [outputs]
    return [(i, o) for i in rows for o in columns]


def _widths(full: int, groups: int) -> list[int]:
    """Return some widths up to the full one, in multiples of 16 where that is possible."""
    step = 16 if full >= 64 else 8 if full >= 16 else 1
    step = step * groups if full % (step * groups) == 0 else groups
    return sorted({min(full, max(step, round(full * share / step) * step)) for share in SHARES} | {full})


def _interpolate(rows: np.ndarray, columns: np.ndarray, times: np.ndarray, inputs: int, outputs: int) -> float:
    """Return the time between measured widths, linear along both axes."""
    along = [float(np.interp(inputs, rows, times[:, j])) for j in range(len(columns))]
    return float(np.interp(outputs, columns, along))


def _profile(layers: Sequence[tuple[Layer, int, int, int]], threads: int) -> list[float]:
    """Return the kernel time of each layer at the given batch and widths, milliseconds."""
    nodes, inputs, outputs, weights, feeds = [], [], [], [], {}
    random = np.random.default_rng(0)
    for index, (layer, batch, taken, made) in enumerate(layers):
        node, shape, weight = _node(index, layer, batch, taken, made)
        nodes.append(node)
        inputs.append(helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, shape))
        outputs.append(helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, None))
        weights.append(
            numpy_helper.from_array(random.standard_normal(weight, dtype=np.float32) * np.float32(0.01), f"w{index}")
        )
        feeds[f"x{index}"] = random.standard_normal(shape, dtype=np.float32)
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    with temporary.folder("prune") as folder:
        session = open_session(model, threads=threads, profile=str(folder / "profile"))
        for _ in range(_REPEATS):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    durations: dict[int, list[float]] = {}
    for index, microseconds in _kernels(events):
        durations.setdefault(index, []).append(microseconds / 1e3)
    # The first run of each kernel touches its memory for the first time.
    return [float(np.quantile(durations[index][1:], _FAST)) for index in range(len(layers))]


def _kernels(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, float]]:
    for event in events:
        # Optimized nodes are named after their output, others after themselves: here both are y0, y1, …
        match = re.fullmatch(r"y(\d+)(_nchwc)?(_token_\d+)?_kernel_time", str(event.get("name", "")))
        if event.get("cat") == "Node" and match is not None:
            yield int(match[1]), float(event["dur"])


def _padding(module: nn.Conv2d) -> list[tuple[int, int]]:
    """Return the pixels that a convolution adds before and after the rows, and the columns."""
    if module.padding == "valid":
        return [(0, 0), (0, 0)]
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(int(pixels), int(pixels)) for pixels in module.padding]


def _node(
    index: int, layer: Layer, batch: int, inputs: int, outputs: int
) -> tuple[onnx.NodeProto, tuple[int, ...], tuple[int, ...]]:
    """Return the layer's node and the shapes of its input and its weight."""
    module, ends, name = layer.module, [f"x{index}", f"w{index}"], f"y{index}"
    if isinstance(module, nn.Linear):
        shape = (batch * layer.area, inputs)
        return helper.make_node("Gemm", ends, [f"y{index}"], name, transB=1), shape, (outputs, inputs)
    groups = outputs if layer.is_depthwise else module.groups
    left, right, top, bottom = getattr(module, "widths", (0, 0, 0, 0))
    if not any((left, right, top, bottom)):
        (top, bottom), (left, right) = _padding(module)
    node = helper.make_node(
        "Conv",
        ends,
        [f"y{index}"],
        name,
        kernel_shape=module.kernel_size,
        strides=module.stride,
        dilations=module.dilation,
        pads=[top, left, bottom, right],
        group=groups,
    )
    return node, (batch, inputs, *layer.size), (outputs, inputs // groups, *module.kernel_size)
