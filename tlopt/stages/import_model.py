"""A ready classifier, as it is, becomes an artifact."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from tlopt import external_data
from tlopt.card import Card
from tlopt.details import OnnxDetails, TorchDetails
from tlopt.errors import ArtifactError, SettingError
from tlopt.files import read_text
from tlopt.names import check_classes
from tlopt.preprocess import Preprocess
from tlopt.publishing import Draft
from tlopt.registry import require
from tlopt.schema import convert, parse_json
from tlopt.sessions import open_session
from tlopt.settings import Setting
from tlopt.stages import SourceFile, stage

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)


@stage(reads=("file", "nothing"), writes="")
def import_model(
    source: SourceFile | None,
    out: Draft,
    *,
    model: Annotated[
        str | None, Setting("Pretrained model, named source:name. It takes the place of a file.", metavar="SOURCE:NAME")
    ] = None,
    classes: Annotated[
        Path | None,
        Setting("File with the class names in the order of the logits. One name a line, or a JSON list."),
    ] = None,
    weights: Annotated[Path | None, Setting("Safetensors file that replaces the model's own weights.")] = None,
    image_size: Annotated[
        int | None, Setting("Side of the square input image, in pixels.", minimum=8, maximum=4096)
    ] = None,
    crop_ratio: Annotated[
        float | None, Setting("Share of the image's shorter side that the central crop keeps.", minimum=0.1, maximum=1)
    ] = None,
    interpolation: Annotated[
        Literal["nearest", "bilinear", "bicubic", "lanczos"] | None, Setting("Filter that resizes images.")
    ] = None,
    mean: Annotated[
        tuple[float, ...] | None, Setting("Mean of each color channel, on a scale from 0 to 1.", metavar="R,G,B")
    ] = None,
    std: Annotated[
        tuple[float, ...] | None,
        Setting("Standard deviation of each color channel, on a scale from 0 to 1.", metavar="R,G,B"),
    ] = None,
    layout: Annotated[
        Literal["nchw", "nhwc"] | None,
        Setting("Order of the axes of an ONNX file's input. Default: found from its shape."),
    ] = None,
    channels: Annotated[Literal["rgb", "bgr"], Setting("Order of the color channels of an ONNX file's input.")] = "rgb",
) -> Card:
    """Make an artifact of a pretrained model or an ONNX file.

    An ONNX file needs one image input and one output of shape (n, classes). The settings say how
    images are preprocessed for it. The mean and standard deviation of ImageNet are used if none are
    given.

    Raises:
        SettingError: Neither or both of a file and a model are given, or the class names do not fit.
        ArtifactError: The file is no ONNX classifier.
    """
    if (source is None) == (model is None):
        raise SettingError(
            "Give either an ONNX file or --model.", hint="tlopt import --model pip:efficientnet_lite0 -o DIR"
        )
    given: dict[str, Any] = {
        "size": image_size, "crop_ratio": crop_ratio, "interpolation": interpolation, "mean": mean, "std": std,
    }  # fmt: skip
    for name in ("mean", "std"):
        if given[name] is not None and len(given[name]) != 3:
            raise SettingError(f"{name} needs three values, got {len(given[name])}.", hint=f"--{name} 0.5,0.5,0.5")
    changes = {name: value for name, value in given.items() if value is not None}
    if source is not None:
        return _from_onnx(source.path, out.folder, classes, changes, layout, channels)
    assert model is not None
    if layout == "nhwc" or channels == "bgr":
        raise SettingError("layout and channels describe an ONNX file; torch models take RGB in NCHW.")
    return _from_source(model, out.folder, classes, weights, changes)


def _from_source(
    model: str, out: Path, classes: Path | None, weights_file: Path | None, changes: dict[str, Any]
) -> Card:
    from tlopt import sources

    names = _names(classes) if classes else None
    network, preprocess = sources.load(
        model,
        classes=0,
        pretrained_classes=len(names or ()),
        size=changes.get("size", 0),
        weights_file=weights_file,
    )
    preprocess = Preprocess.from_dict({**preprocess.to_dict(), **changes})
    import torch

    with torch.inference_mode():
        width = network.eval()(torch.zeros(1, 3, preprocess.size, preprocess.size)).shape[-1]
    card = Card(
        kind="torch", model=model, precision="fp32", classes=_fitting(names, width), preprocess=preprocess,
        details=TorchDetails(),
    )  # fmt: skip
    return sources.keep(network, out, card)


def _from_onnx(
    file: Path, out: Path, classes: Path | None, changes: dict[str, Any], layout: str | None, channels: str
) -> Card:
    import onnx

    from tlopt.graphs.loading import load_graph

    external_data.check(file)
    proto = load_graph(file)
    image = _image_input(proto, file)
    dims = [d.dim_value for d in image.type.tensor_type.shape.dim]
    last = dims[-1] == 3 if layout is None else layout == "nhwc"
    side = dims[1:3] if last else dims[2:4]
    changes.setdefault("size", side[0] or 224)
    if any(s and s != changes["size"] for s in side):
        raise ArtifactError(
            f"{file} takes images of {side[0]} x {side[1]} pixels; the chosen size is {changes['size']}.",
            hint="Only square inputs are supported; leave --image-size out to take the file's own.",
        )
    folded = image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    if folded and (not last or channels == "bgr"):
        raise ArtifactError(f"{file} takes uint8 images in an unsupported layout; only (n, h, w, 3) RGB is.")
    _rename(proto, image.name, proto.graph.output[0].name)
    fixed = _free_batch(proto)
    target = out / "model.onnx"
    onnx.save(proto, target)
    preprocess = Preprocess.from_dict(
        {
            **Preprocess(size=224).to_dict(),
            **changes,
            "layout": "nhwc" if last else "nchw",
            "channels": channels,
            "folded": folded,
        }
    )
    width, fixed = _probe(target, proto, preprocess, fixed)
    names = _names(classes) if classes else None
    from tlopt.graphs.precision import opset_of, precision_of

    return Card(
        kind="onnx", model=f"onnx:{file.name}", precision=precision_of(proto), classes=_fitting(names, width),
        preprocess=preprocess, details=OnnxDetails(opset=opset_of(proto), fixed_batch=fixed),
    )  # fmt: skip


def _image_input(proto: onnx.ModelProto, file: Path) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(proto.graph.output) != 1:
        raise ArtifactError(
            f"{file} has {len(inputs)} inputs and {len(proto.graph.output)} outputs; a classifier has one of each."
        )
    if len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise ArtifactError(f"The input of {file} has {len(inputs[0].type.tensor_type.shape.dim)} axes, expected 4.")
    return inputs[0]


def _rename(proto: onnx.ModelProto, image: str, logits: str) -> None:
    """Name the input ``images`` and the output ``logits`` throughout the graph."""
    new = {image: "images", logits: "logits"}
    for node in proto.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        value.name = new.get(value.name, value.name)


def _free_batch(proto: onnx.ModelProto) -> int:
    """Make the batch axis of input and output dynamic; return what it was fixed to, or 0."""
    axes = [v.type.tensor_type.shape.dim[0] for v in [proto.graph.output[0]] if v.type.tensor_type.shape.dim]
    image = next(v for v in proto.graph.input if v.name == "images").type.tensor_type.shape.dim[0]
    fixed = image.dim_value
    for axis in [image, *axes]:
        axis.dim_param = "n"
    del proto.graph.value_info[:]
    return int(fixed)


def _probe(file: Path, proto: onnx.ModelProto, preprocess: Preprocess, fixed: int) -> tuple[int, int]:
    """Run the file; return its number of classes, and its batch size if that cannot vary, else 0."""
    import onnx

    require("onnxruntime")  # its absence is not the file's fault
    random = np.random.default_rng(0)

    def run(count: int) -> np.ndarray:
        session = open_session(file)
        pixels = random.integers(0, 256, (count, preprocess.size, preprocess.size, 3), dtype=np.uint8)
        return np.asarray(session.run(None, {"images": preprocess.normalize(pixels)})[0])

    try:
        logits = run(fixed or 1)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ArtifactError(
            f"{file.name} cannot be run on images of {preprocess.size} px in {preprocess.layout}: {reason}",
            hint="Check --image-size and --layout.",
        ) from error
    if logits.ndim != 2 or len(logits) != (fixed or 1):
        raise ArtifactError(f"The output has shape {logits.shape}; a classifier's is (n, classes).")
    if fixed:
        try:
            free = run(fixed + 1).shape == (fixed + 1, logits.shape[1])
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base but Exception
            log.info("the graph fixes its batch to %d: %s", fixed, error)
            free = False
        if not free:
            for value in (proto.graph.input[0], proto.graph.output[0]):
                value.type.tensor_type.shape.dim[0].dim_value = fixed
            onnx.save(proto, file)
            return logits.shape[1], fixed
    return logits.shape[1], 0


_LINES = re.compile(r"\r\n|\n|\r")


def _names(file: Path) -> tuple[str, ...]:
    """Read class names.

    Raises:
        SettingError: The file cannot be read, is empty or names a class twice.
        ImagesError: A name cannot be written or shown.
    """
    try:
        text = read_text(file)
        if text.lstrip().startswith("["):
            names = list(map(str, convert(parse_json(text), list[str | int])))
        else:
            names = [line.strip() for line in _LINES.split(text)]
    except (OSError, ValueError) as error:
        raise SettingError(f"The class names in {file} cannot be read: {error}") from error
    names = [name for name in names if name]
    check_classes(names, file)
    twice = {name for name, count in Counter(names).items() if count > 1}
    if twice or len(names) < 2:
        problem = f"names {sorted(twice)[0]!r} twice" if twice else f"names {len(names)} classes"
        raise SettingError(f"{file} {problem}.", hint="Write one class name a line, in the order of the logits.")
    return tuple(names)


def _fitting(names: tuple[str, ...] | None, width: int) -> tuple[str, ...]:
    """Return the class names if they are as many as the logits; ImageNet's ids for 1,000 without a file.

    Raises:
        SettingError: They are not.
    """
    if names is None:
        if width != 1000:
            raise SettingError(
                f"The model has {width} classes and their names are not known.",
                hint="Name them with --classes FILE, one a line in the order of the logits.",
            )
        from tlopt.sources import timm

        return timm.imagenet_ids()
    if len(names) != width:
        raise SettingError(f"The file names {len(names)} classes, the model has {width}.")
    return names
