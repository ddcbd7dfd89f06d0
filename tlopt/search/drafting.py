"""Networks and graphs that are made to be timed, not to be used: their answers mean nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from tlopt.artifact import Artifact
from tlopt.cards.card import Card
from tlopt.cards.details import OnnxDetails, Quantized, Runtime
from tlopt.errors import StageError
from tlopt.preprocess import LARGEST
from tlopt.publishing import Draft
from tlopt.settings import Setting
from tlopt.stages import stage

_SHOWN = 16  # images that ranges are chosen from
_BATCH = 8


@stage(reads="nothing", writes="torch")
def new_network(
    _source: None,
    out: Draft,
    *,
    model: Annotated[str, Setting("Pretrained network, named source:name.")] = "",
    weights: Annotated[Path | None, Setting("Safetensors file that replaces the pretrained weights.")] = None,
    image_size: Annotated[int, Setting("Side of the square input, in pixels.", minimum=16, maximum=LARGEST)] = 224,
    classes: Annotated[int, Setting("Number of classes.", minimum=2)] = 2,
) -> Card:
    """Make an artifact of a pretrained network with an untrained classifier.

    Raises:
        PluginError: The network is unknown, or its weights cannot be reached.
        MissingLibraryError: The source's library is not installed.
        ArtifactError: The weights do not fit.
    """
    import torch

    from tlopt import sources

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, preprocess = sources.load(model, classes=classes, size=image_size, weights_file=weights)
    card = Card(
        kind="torch", model=model, precision="fp32", classes=tuple(f"class {i}" for i in range(classes)),
        preprocess=preprocess,
    )  # fmt: skip
    return sources.keep(network.eval(), out.folder, card)


@stage(reads="onnx", writes="onnx")
def cast_graph(
    source: Artifact,
    out: Draft,
    *,
    precision: Annotated[Literal["int8", "fp16", "bf16"], Setting("Number format in which the graph computes.")],
    runtime: Annotated[Runtime, Setting("Runtime that will run the result.")],
) -> Card:
    """Make a graph of the operators that the quantized one will have: its ranges are rough, and nothing is judged.

    Raises:
        ArtifactError: The source is quantized already, or its graph cannot be quantized.
    """
    import onnx

    from tlopt.graphs.precision import opset_of
    from tlopt.quantization.float_graph import float_graph

    view = float_graph(source, precision=precision, runtime=runtime)
    batch = source.card.onnx.fixed_batch or _BATCH
    inputs = _noise(source, batch)
    quantized = Quantized(runtime=runtime, calibration_images=len(inputs))
    batches = [inputs[i : i + batch] for i in range(0, len(inputs), batch)]
    if precision != "int8":
        from tlopt.quantization.casts import to_half

        result, large = to_half(view, precision, batches)
        quantized = replace(quantized, float_nodes=tuple(large))
    else:
        from tlopt.backends import reduced_range
        from tlopt.quantization.int8 import Scheme, calibrate
        from tlopt.quantization.quantizers import minmax

        reduced = reduced_range(runtime, "auto")
        scheme = Scheme(
            runtime=runtime, reduced=reduced, choose=minmax.choose, rounding="nearest", bias_correction=False
        )
        result = calibrate(view, scheme, batches).graph()
        quantized = replace(quantized, quantizer="minmax", reduce_range=reduced)
    onnx.save(result, out / "model.onnx")
    details = OnnxDetails(
        opset=opset_of(result), fixed_batch=source.card.onnx.fixed_batch, answers=source.card.answers,
        quantized=quantized,
    )  # fmt: skip
    return replace(source.card, precision=precision, images=None, details=details, files={})


@stage(reads="onnx", writes="onnx")
def resized_graph(
    source: Artifact,
    out: Draft,
    *,
    image_size: Annotated[int, Setting("Side of the square input, in pixels.", minimum=16, maximum=LARGEST)],
) -> Card:
    """Make a graph take images of another size; its layers and weights stay.

    Raises:
        StageError: It does not run with that size.
    """
    import onnx

    from tlopt.graphs.cleaning import with_shapes
    from tlopt.graphs.loading import load_graph

    graph = load_graph(source.payload(".onnx"))
    preprocess = replace(source.card.preprocess, size=image_size)
    for dim, side in zip(graph.graph.input[0].type.tensor_type.shape.dim[1:], preprocess.input_shape, strict=True):
        dim.dim_value = side
    del graph.graph.value_info[:]
    graph = with_shapes(graph, strict=True)
    onnx.save(graph, out / "model.onnx")
    card = replace(source.card, preprocess=preprocess, files={"model.onnx": ""})
    _run(Artifact(path=out.folder, card=card))
    return replace(card, files={})


def _run(made: Artifact) -> None:
    """Run a graph once.

    Raises:
        StageError: It does not run, or answers for another number of classes.
    """
    from tlopt.sessions import open_session

    count = made.card.onnx.fixed_batch or 1
    inputs = np.zeros((count, *made.card.preprocess.input_shape), made.card.preprocess.input_dtype)
    [logits] = open_session(made.payload(".onnx")).run(None, {"images": inputs})
    if np.shape(logits) != (count, len(made.card.classes)):
        raise StageError(f"It answers with {np.shape(logits)} numbers for {len(made.card.classes)} classes.")


def _noise(source: Artifact, batch: int) -> np.ndarray:
    """Return what the graph takes, whole batches of noise."""
    preprocess = source.card.preprocess
    size = preprocess.size
    found = preprocess.normalize(np.random.default_rng(0).integers(0, 256, (_SHOWN, size, size, 3), np.uint8))
    return np.resize(found, (-(-len(found) // batch) * batch, *found.shape[1:]))
