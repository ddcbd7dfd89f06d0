"""Networks and graphs that are made to be timed, not to be used: their answers mean nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from tlopt.artifact import Artifact
from tlopt.cards.card import Card
from tlopt.cards.details import OnnxDetails, Quantized, Runtime, TorchDetails
from tlopt.errors import StageError
from tlopt.images import ImageFolder
from tlopt.publishing import Draft
from tlopt.settings import Setting
from tlopt.stages import stage

_SHOWN = 16  # images that ranges are chosen from
_BATCH = 8


@stage(reads=("nothing", "torch"), writes="torch")
def new_network(
    source: Artifact | None,
    out: Draft,
    *,
    model: Annotated[str, Setting("Pretrained network, named source:name.")] = "",
    weights: Annotated[Path | None, Setting("Safetensors file that replaces the pretrained weights.")] = None,
    image_size: Annotated[int, Setting("Side of the square input, in pixels.", minimum=16)] = 224,
    classes: Annotated[int, Setting("Number of classes.", minimum=2)] = 2,
) -> Card:
    """Make an artifact of a pretrained network with an untrained classifier, or of a trained one without its images.

    Raises:
        PluginError: The network is unknown, or its weights cannot be reached.
        MissingLibraryError: The source's library is not installed.
        ArtifactError: The weights do not fit.
    """
    import torch

    from tlopt import sources

    if source is not None:
        card = replace(source.card, images=None, lineage=(), files={}, details=TorchDetails())
        return sources.keep(sources.open_model(source), out.folder, card)
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
    float_blocks: Annotated[tuple[str, ...], Setting("Names of blocks that stay float.")] = (),
    images: Annotated[Path | None, Setting("Folder of images that ranges are chosen from. Default: noise.")] = None,
) -> Card:
    """Make a graph of the operators that the quantized one will have: its ranges are rough, and nothing is judged.

    Raises:
        ArtifactError: The source is quantized already, or its graph cannot be quantized.
        SettingError: There is no block of a name.
        ImagesError: `images` cannot be used.
    """
    import onnx

    from tlopt.graphs.precision import opset_of
    from tlopt.quantization.float_graph import float_graph
    from tlopt.quantization.search.float_blocks import named

    view = float_graph(source, folded=True)
    asked = named(view, float_blocks)
    floats = [node for block in asked for node in block.nodes]
    batch = source.card.onnx.fixed_batch or _BATCH
    inputs = _inputs(source, images, batch)
    quantized = Quantized(
        runtime=runtime, calibration_images=len(inputs), float_blocks=tuple(block.name for block in asked)
    )
    batches = [inputs[i : i + batch] for i in range(0, len(inputs), batch)]
    if precision != "int8":
        from tlopt.quantization.casts import to_half

        result, large = to_half(view, precision, batches, keep=floats)
        quantized = replace(quantized, float_nodes=tuple(large))
    else:
        from tlopt.backends import reduced_range
        from tlopt.quantization.int8 import Scheme, calibrate
        from tlopt.quantization.quantizers import minmax

        reduced = reduced_range(runtime, "auto")
        scheme = Scheme(
            runtime=runtime, reduced=reduced, choose=minmax.choose, rounding="nearest", bias_correction=False
        )
        result = calibrate(view, scheme, batches, floats=floats).graph()
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
    image_size: Annotated[int, Setting("Side of the square input, in pixels.", minimum=16)],
) -> Card:
    """Make a graph take images of another size; its layers and weights stay.

    Raises:
        StageError: It does not run with that size.
    """
    import onnx

    from tlopt.graphs.loading import load_graph

    graph = load_graph(source.payload(".onnx"))
    preprocess = replace(source.card.preprocess, size=image_size)
    for dim, side in zip(graph.graph.input[0].type.tensor_type.shape.dim[1:], preprocess.input_shape, strict=True):
        dim.dim_value = side
    del graph.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True)
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


def _inputs(source: Artifact, images: Path | None, batch: int) -> np.ndarray:
    """Return what the graph takes, whole batches: a few images, or noise."""
    from tlopt.images import batches
    from tlopt.images.scanning import scan_any

    preprocess = source.card.preprocess
    if images is None:
        size = preprocess.size
        pixels = np.random.default_rng(0).integers(0, 256, (_SHOWN, size, size, 3), np.uint8)
        found = preprocess.normalize(pixels)
    else:
        folder = scan_any(images, known=source.card.classes)
        found = np.concatenate([chunk.inputs for chunk in batches(_some(folder), preprocess, batch=_SHOWN)])
    return np.resize(found, (-(-len(found) // batch) * batch, *found.shape[1:]))


def _some(folder: ImageFolder) -> ImageFolder:
    """Return a few images, spread over all of them."""
    places = np.linspace(0, len(folder) - 1, min(_SHOWN, len(folder))).round().astype(int)
    return folder.select(np.unique(places))
