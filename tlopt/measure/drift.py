"""Where in the network an ONNX artifact starts to compute something else than another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from tlopt.artifact import Artifact
from tlopt.environment import processor, versions
from tlopt.errors import ArtifactError
from tlopt.measure.candidates import running
from tlopt.measure.evaluate import same_classes
from tlopt.measure.speed.feeds import Inputs
from tlopt.reports import Report, Scalar
from tlopt.sessions import open_session
from tlopt.settings import MOST_IN_BATCH, Setting, checked

if TYPE_CHECKING:
    import onnx


@checked
def drift(
    reference: str | Path | Artifact,
    candidate: str | Path | Artifact,
    *,
    images: Annotated[Path | None, Setting("Folder of images. Default: the training images.")] = None,
    batch: Annotated[int, Setting("Number of images to run.", minimum=1, maximum=MOST_IN_BATCH)] = 8,
) -> Report:
    """Measure in which layers two ONNX artifacts differ.

    Both graphs run on ONNX Runtime without its optimizations. Tensors of the same name are
    compared. Their error is the root mean square of the difference over that of the reference. The
    column "added" shows by how much a layer raises the largest error before it.

    Raises:
        ArtifactError: An artifact is not of kind onnx, or they have no tensor in common.
        ImagesError: The images cannot be used, or the artifacts' classes differ.
    """
    first = Artifact.load(reference).expect("onnx")
    second = same_classes(first, Artifact.load(candidate).expect("onnx"))
    from tlopt.graphs.loading import load_graph

    old, new = (load_graph(artifact.payload(".onnx")) for artifact in (first, second))
    made = {node.output[0]: node for node in new.graph.node}
    # Of the same operator, too: a quantizer may let a convolution write under its activation's name.
    common = [
        node.output[0]
        for node in old.graph.node
        if node.op_type in _COMPUTING and node.output[0] in made and made[node.output[0]].op_type == node.op_type
    ]
    if not common:
        raise ArtifactError(
            f"{first.path} and {second.path} have no tensor of the same name.",
            hint="Compare an artifact with the one it was quantized or cast from.",
        )
    pool = Inputs(images, noise=False, largest=batch)
    with running(first, "onnxruntime"):
        were = _tensors(old, common, pool.of(first)[:batch], first.card.onnx.fixed_batch)
    with running(second, "onnxruntime"):
        are = _tensors(new, common, pool.of(second)[:batch], second.card.onnx.fixed_batch)
    rows: list[dict[str, Scalar]] = []
    worst = 0.0
    for name in common:
        size = float(np.sqrt(np.mean(were[name] ** 2)))
        kept = _without_filling(are[name], were[name].shape)
        if kept is None or size == 0:
            continue
        error = float(np.sqrt(np.mean((kept - were[name]) ** 2))) / size
        rows.append(
            {
                "tensor": name,
                "layer": made[name].name or name,
                "op": made[name].op_type,
                "error": error,
                "added": max(0.0, error - worst),
                "largest_difference": float(np.abs(kept - were[name]).max()),
            }
        )
        worst = max(worst, error)
    if not rows:
        raise ArtifactError(f"{first.path} and {second.path} have no tensor of the same name and shape.")
    leaps = sorted(rows, key=lambda row: -float(row["added"] or 0))[:3]
    return Report(
        title=f"{second.name} against {first.name}, layer by layer, {batch} images",
        rows=tuple(rows),
        notes=(
            f"Error of the last tensor: {float(rows[-1]['error'] or 0):.2%}.",
            "It grows most at "
            + ", ".join(f"{r['layer']} ({r['op']}, +{float(r['added'] or 0):.2%})" for r in leaps)
            + ".",
        ),
        conditions={"processor": processor(), "input": pool.what, "batch": batch, "versions": versions()},
    )


def _without_filling(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return values of a shape without the channels that quantizing has added behind; None if they differ otherwise."""
    from tlopt.quantization.channel_padding import filled

    if values.ndim > 1 and len(shape) > 1 and values.shape[1] == filled(shape[1]):
        values = values[:, : shape[1]]
    return values if values.shape == shape else None


# Operators that compute with floats, rather than move or convert them.
_COMPUTING = frozenset({
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Tanh",
    "Gelu", "GlobalAveragePool", "AveragePool", "MaxPool", "ReduceMean", "BatchNormalization", "LayerNormalization",
    "Concat", "Softmax",
})  # fmt: skip


def _tensors(model: onnx.ModelProto, names: list[str], inputs: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Return tensors inside a graph, float64; of several runs one after the other.

    Args:
        model: The graph.
        names: The tensors.
        inputs: Of all images.
        size: Images of a run; 0 for all at once.
    """
    from onnx import ValueInfoProto

    shown = type(model)()
    shown.CopyFrom(model)
    outputs = {value.name for value in shown.graph.output}
    # ONNX Runtime infers the type of an output that is given by name alone.
    shown.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in outputs)
    session = open_session(shown, optimize=False)
    entry: Any = session.get_inputs()[0]
    kinds = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
    inputs = inputs.astype(kinds.get(entry.type, np.float32), copy=False)
    size = size or len(inputs)
    places = [np.arange(first, first + size) % len(inputs) for first in range(0, len(inputs), size)]
    runs = [session.run(names, {entry.name: inputs[some]}) for some in places]
    return {name: _joined([run[place] for run in runs]) for place, name in enumerate(names)}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Return what several runs gave as one array: flat, where the number of values varies from run to run."""
    whole = [np.asarray(part, np.float64) for part in parts]
    if len(whole) == 1:
        return whole[0]
    alike = whole[0].ndim and all(part.shape[1:] == whole[0].shape[1:] for part in whole)
    return np.concatenate(whole if alike else [part.ravel() for part in whole])
