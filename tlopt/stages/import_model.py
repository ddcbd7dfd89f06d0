"""A ready network, as it is, becomes an artifact."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tlopt.artifact import Artifact
from tlopt.backends import open_runner, outputs_of
from tlopt.cards.card import Card
from tlopt.cards.details import OnnxDetails, TorchDetails
from tlopt.errors import ArtifactError, SettingError
from tlopt.imports.class_names import fitting, read_classes
from tlopt.imports.settings import Ends, Feeding
from tlopt.outputs import in_words
from tlopt.preprocess import Preprocess
from tlopt.progress import NOTICE
from tlopt.publishing import Draft
from tlopt.reading import external_data
from tlopt.reading.names import shown_name
from tlopt.registry import require
from tlopt.settings import Setting, ruled
from tlopt.sources import expect_known_at_once
from tlopt.stages import SourceFile, stage

if TYPE_CHECKING:
    import onnx
    from torch import nn

log = logging.getLogger(__name__)

_FILE = "model.onnx"


def _expect_one(model: str | None, kind: str) -> None:
    if (kind == "nothing") == (model is None):
        raise SettingError("Give either a file or --model.", hint="tlopt import --model pip:efficientnet_lite0 -o DIR")


def _refuse_unknown(model: str | None) -> None:
    if model is not None:
        expect_known_at_once(model)


def _refuse_classes(classes: Path | None, ends: Ends) -> None:
    if ends.task == "any" and (classes is not None or ends.answers is not None):
        raise SettingError("classes and answers are for classifiers.", hint="Leave them out, or leave --task out.")


def _check_feeding(feeding: Feeding) -> None:
    feeding.given()


def _refuse_ends(model: str | None, feeding: Feeding, ends: Ends) -> None:
    given = feeding.given()
    described = feeding.layout == "nhwc" or given.get("channels") == "bgr" or ends != Ends()
    if model is not None and (described or {"width", "fit"} & given.keys()):
        raise SettingError(
            "layout, channels, image_width, fit, task, input, output and answers describe an ONNX file; torch "
            "models are classifiers, and take square images in RGB and NCHW."
        )


@stage(reads=("file", "saved model", "nothing"), writes="")
@ruled(_expect_one, _refuse_unknown, _check_feeding, _refuse_classes, _refuse_ends)
def import_model(
    source: SourceFile | None,
    out: Draft,
    *,
    model: Annotated[
        str | None,
        Setting(
            "Pretrained model, named source:name. It takes the place of a file.", metavar="SOURCE:NAME", common=True
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        Setting("File with the class names in the order of the logits. One name a line, or JSON.", common=True),
    ] = None,
    weights: Annotated[Path | None, Setting("Safetensors file that replaces the model's own weights.")] = None,
    images: Annotated[
        Path | None, Setting("Folder of a few images. What is assumed about the network is tried on them.")
    ] = None,
    feeding: Feeding,
    ends: Ends,
) -> Card:
    """Make an artifact of a pretrained model or an ONNX file.

    A file of Keras (.keras) or of torch.export (.pt2) is exported to ONNX first. Its graph is
    compared with the network in it, and code in it is refused. A file of Keras needs Keras 3, and
    no TensorFlow. A folder that is a SavedModel is taken likewise. It needs TensorFlow and tf2onnx.

    An ONNX file needs an image as its input and a number for each class as its output. The settings
    say how images are preprocessed for it. The mean and standard deviation of ImageNet are used if
    none are given. What is assumed is shown.

    The file is run on several batches. Its output may be logits, probabilities, log-probabilities
    or one sigmoid for each class. Convolutions of one tensor that are summed are merged, as in a
    RepVGG that was exported with its branches, if the answers stay the same.

    With --task any the file may have any outputs: of a detector, a segmenter or an embedder. It
    needs no classes. The other commands judge it by the error of each output.

    Raises:
        SettingError: Neither or both of a file and a model are given, or the class names do not fit.
        ArtifactError: The file is no ONNX classifier, its answers depend on the batch, or cannot be used.
        CheckError: The graph made of a file of another format answers otherwise than its network.
        ImagesError: `images` cannot be used.
    """
    given = feeding.given()
    names = read_classes(classes) if classes else None
    if images is not None:
        from tlopt.imports.sanity import look

        look(images, classifier=ends.task == "classify")
    if source is not None and ends.task == "any":
        card = _any_from_onnx(source.path, out.folder, given, ends)
    elif source is not None:
        given = _with_family(source.path, given)
        card = _from_onnx(source.path, out.folder, names, given, ends)
    else:
        assert model is not None
        from tlopt import sources

        model = sources.pinned(model)
        names = names or sources.class_names(model)
        card = _from_source(model, out.folder, names, weights, given)
    _tell(card, given, out.folder, named=names is not None)
    if images is not None:
        _try(Artifact(path=out.folder, card=card), images)
    return replace(card, files={})


def _from_source(
    model: str, out: Path, names: tuple[str, ...] | None, weights_file: Path | None, given: dict[str, Any]
) -> Card:
    from tlopt import sources

    network, preprocess = sources.load(
        model,
        classes=0,
        pretrained_classes=len(names or ()),
        size=given.get("size", 0),
        weights_file=weights_file,
    )
    preprocess = Preprocess.from_dict({**preprocess.to_dict(), **given})
    width = _width_of(network, preprocess)
    card = Card(
        kind="torch", model=model, precision="fp32", classes=fitting(names, width), preprocess=preprocess,
        details=TorchDetails(),
    )  # fmt: skip
    return sources.keep(network, out, card)


def _width_of(network: nn.Module, preprocess: Preprocess) -> int:
    """Return how many numbers a network answers with."""
    import torch

    with torch.inference_mode():
        return int(network.eval()(torch.zeros(2, 3, preprocess.size, preprocess.size)).shape[-1])


def _from_onnx(file: Path, out: Path, names: tuple[str, ...] | None, given: dict[str, Any], ends: Ends) -> Card:
    import onnx

    from tlopt.graphs.precision import opset_of, precision_of
    from tlopt.graphs.rewriting.constants import fold_parameters
    from tlopt.imports.feeding import fed
    from tlopt.imports.interface import answer_floats, narrow
    from tlopt.imports.meaning import kind_of
    from tlopt.imports.merging import merged
    from tlopt.imports.probing import probe
    from tlopt.imports.renaming import rename

    proto = narrow(_graph(file, given), file, input_name=ends.input_ or "", output_name=ends.output or "")
    preprocess = fed(proto, file, given, classifier=True)
    answer_floats(proto)
    proto = fold_parameters(proto)
    probed = probe(proto, preprocess, str(file))
    proto = merged(proto, preprocess)
    rename(proto, {proto.graph.input[0].name: "images", proto.graph.output[0].name: "logits"})
    onnx.save(proto, out / _FILE)
    answers = ends.answers or kind_of(proto, probed.answers)
    details = OnnxDetails(opset=opset_of(proto), fixed_batch=probed.fixed_batch, answers=answers)
    return Card(
        kind="onnx", model=f"onnx:{file.name}", precision=precision_of(proto),
        classes=fitting(names, probed.answers.shape[1]), preprocess=preprocess, details=details, files={_FILE: ""},
    )  # fmt: skip


def _graph(file: Path, given: dict[str, Any]) -> onnx.ModelProto:
    """Return the graph of an ONNX file, or of one in another format."""
    from tlopt.graphs.loading import load_graph
    from tlopt.graphs.unmistakable import unmistakable
    from tlopt.imports import formats
    from tlopt.imports.formats import foreign

    made = formats.read(file, size=given.get("size"), width=given.get("width"))
    if made is not None:
        return unmistakable(made)
    try:
        external_data.check(file)
        return unmistakable(load_graph(file))
    except ArtifactError as error:
        what, hint = foreign.described(file)
        if not what:
            raise
        raise ArtifactError(f"{file} is {what}.", hint=hint) from error


def _with_family(file: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return how images are fed, with what the name of a network of keras.applications says of it."""
    from tlopt.imports.formats import keras
    from tlopt.imports.presets import PRESETS

    found = keras.family(keras.description(file)) if keras.is_keras(file) else ""
    if not found or {"mean", "std", "channels"} & given.keys():
        return given
    log.log(NOTICE, "Images are preprocessed as for %s, from the name of the network. --preset names another.", found)
    return {**PRESETS[found], **given}


def _any_from_onnx(file: Path, out: Path, given: dict[str, Any], ends: Ends) -> Card:
    """Make an artifact of a network that is no classifier; its outputs keep their names."""
    import onnx

    from tlopt.graphs.precision import opset_of, precision_of
    from tlopt.imports import any_task
    from tlopt.imports.feeding import fed
    from tlopt.imports.merging import merged
    from tlopt.imports.renaming import rename

    names = [name.strip() for name in (ends.output or "").split(",") if name.strip()]
    proto = any_task.narrow(_graph(file, given), file, input_name=ends.input_ or "", names=names)
    preprocess = fed(proto, file, given, classifier=False)
    any_task.pin(proto, preprocess)
    if "images" in {value.name for value in proto.graph.output}:
        raise ArtifactError(
            f"An output of {file} is called images, which is the name of the input in an artifact.",
            hint="Export it with another name, or leave it out with --output.",
        )
    rename(proto, {proto.graph.input[0].name: "images"})
    found = any_task.probe(proto, preprocess, str(file))
    proto = merged(proto, preprocess)
    onnx.save(proto, out / _FILE)
    details = OnnxDetails(opset=opset_of(proto), fixed_batch=found.fixed_batch, task="any", outputs=found.outputs)
    return Card(
        kind="onnx", model=f"onnx:{file.name}", precision=precision_of(proto), classes=(), preprocess=preprocess,
        details=details, files={_FILE: ""},
    )  # fmt: skip


def _tell(card: Card, given: dict[str, Any], folder: Path, *, named: bool) -> None:
    """Say how images are fed and what the answers are taken for, and which of it nobody said."""
    preprocess, answers = card.preprocess, card.answers.replace("_", "-")
    if card.task == "any":
        said = f"no classifier, outputs {', '.join(map(in_words, card.outputs))}"
    else:
        said = f"{len(card.classes)} classes, {answers}{'' if named else '; the classes are those of ImageNet'}"
    log.log(NOTICE, "%s: %s; %s.", shown_name(card.model), preprocess.summary(), said)
    if card.kind == "onnx" and card.precision == "int8":
        from tlopt.imports.quantized import told

        log.log(NOTICE, "%s", told(require("onnx").load(folder / _FILE)))
    if card.kind == "onnx" and not preprocess.folded:
        assumed = [name for name in ("mean", "std", "channels") if name not in given]
        if "mean" in assumed or "std" in assumed:
            log.log(NOTICE, "Assumed, as the file does not say it: %s. Check that the network was trained with these "
                    "values.", ", ".join(assumed))  # fmt: skip


def _try(made: Artifact, images: Path) -> None:
    """Warn where a few images show that an assumption is wrong."""
    from tlopt.imports.sanity import alike, complaints

    card = made.card
    with open_runner(made) as runner:
        if card.task == "any":
            found = alike(outputs_of(runner), images, card.preprocess)
        else:
            found = complaints(runner, images, card.preprocess, card.classes, card.answers)
    if found:
        log.warning("What is assumed about the network looks wrong: %s. Check --preset, --mean, --std, --channels, "
                    "--image-size and the order of --classes.", "; ".join(found))  # fmt: skip
