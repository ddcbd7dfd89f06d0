"""A graph is tried before it is taken: what it answers, and which batches it takes.

What a graph declares about its batch is not believed. Several images at once have to give each image the answer
that it has alone.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from PIL import Image

from tlopt.errors import ArtifactError
from tlopt.graphs.nesting import graphs
from tlopt.graphs.precision import precision_of
from tlopt.imports.interface import end_in
from tlopt.preprocess import Preprocess
from tlopt.registry import require
from tlopt.sessions import open_session

log = logging.getLogger(__name__)

_IMAGES = 6
_LARGEST = 256  # images of a batch that is tried
GROUPS = ((0, 1), (2, 3, 0), (3, 2, 1))  # images that are answered together
# Of the answers' spread. Kernels add up in another order in another batch; in low precision that crosses a step.
_SAME, _SAME_ROUNDED = 5e-3, 5e-2
Run = Callable[[Sequence[int]], Any]  # places of images -> what a graph answers to them
_ANY = onnx.TensorShapeProto.Dimension(dim_param="n")
EXPORT = "Export it in evaluation mode (model.eval())."


@dataclass(frozen=True, kw_only=True, eq=False)
class Probed:
    """What was found out by running a graph.

    Args:
        fixed_batch: Number of images that each run takes; 0 for any number.
        answers: float32 (n, classes), on images of several kinds.
    """

    fixed_batch: int
    answers: np.ndarray


def probe(model: onnx.ModelProto, preprocess: Preprocess, name: str) -> Probed:
    """Run a graph in several batches. Its batch is freed, or fixed to what it takes, in place.

    Args:
        model: Of one input and one output; an output with further axes of length 1 is flattened.
        preprocess: How images become its input.
        name: Of its file, for messages.

    Raises:
        ArtifactError: It cannot be run, answers otherwise than a classifier, or answers to an image depend on the
            other images of its batch.
        MissingLibraryError: ONNX Runtime is not installed.
    """
    require("onnxruntime")  # its absence is not the file's fault
    declared = _declared(model)
    _declare(model, 0)
    inputs = preprocess.normalize(probes(preprocess))
    alone = _first(model, inputs, declared or 1, preprocess, name)
    declared = declared or (len(alone) if len(alone) > 1 and alone.ndim > 1 else 0)
    squeezed = _shaped(model, alone, declared or 1, name)
    run = _runner(model, inputs)
    check_repeats(model, run, 1 if squeezed else declared or 1, name)
    if squeezed:
        return _fixed(model, run, 1, name)
    try:
        answers = np.concatenate([run([place]) for place in range(_IMAGES)])
        together = [(group, run(group)) for group in GROUPS]
        whole = all(len(found) == len(group) for group, found in together) and len(answers) == _IMAGES
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base but Exception
        log.info("the graph fixes its batch to %d: %s", declared or 1, error)
        whole = False
    if not whole:
        return _fixed(model, run, declared or 1, name)
    _check_finite(answers, name)
    alike = all(_same(found, answers[list(group)], answers, model) for group, found in together)
    if alike and not ranges_anew(model):
        return Probed(fixed_batch=0, answers=answers)
    return _depending(model, answers, declared, name)


def probes(preprocess: Preprocess) -> np.ndarray:
    """Return images of several kinds, uint8 (6, height, width, channels): noise, smooth, dark and bright."""
    random = np.random.default_rng(0)
    high, wide = preprocess.sides
    noise = random.integers(0, 256, (2, high, wide, 3), dtype=np.uint8)
    coarse = random.integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(c).resize((wide, high), Image.Resampling.BICUBIC)) for c in coarse])
    smooth[2], smooth[3] = smooth[2] // 4, 255 - smooth[3] // 4
    # One of each kind first: the first four are run together.
    found = np.concatenate([smooth[2:3], noise[:1], smooth[3:], smooth[:1], noise[1:], smooth[1:2]])
    return found[..., :1] if preprocess.channels == "grey" else found


def _declared(model: onnx.ModelProto) -> int:
    return int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def _declare(model: onnx.ModelProto, batch: int) -> None:
    """Write the batch, 0 for any number, and forget the shapes inside, which may have had another one."""
    for value in (model.graph.input[0], model.graph.output[0]):
        if dims := value.type.tensor_type.shape.dim:
            dims[0].CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=batch) if batch else _ANY)
    for graph in graphs(model.graph):
        del graph.value_info[:]


def _runner(model: onnx.ModelProto, inputs: np.ndarray) -> Any:
    session, name = open_session(model), model.graph.input[0].name

    def run(places: Sequence[int]) -> np.ndarray:
        return np.asarray(session.run(None, {name: inputs[list(places)]})[0])

    return run


def _first(model: onnx.ModelProto, inputs: np.ndarray, batch: int, preprocess: Preprocess, name: str) -> np.ndarray:
    run = _runner(model, inputs)
    try:
        found: np.ndarray = run(_cycle(0, batch))
    except Exception as error:
        # A free batch that is none: the numbers of images that reshapes inside name are tried.
        for other in sorted(_burned(model) - {batch}):
            with contextlib.suppress(Exception):
                found = run(_cycle(0, other))
                if found.shape[:1] == (other,):
                    return found
        reason = str(error).strip().partition("\n")[0]
        raise ArtifactError(
            f"{name} cannot be run on images of {in_words(preprocess)}, {batch} at once: {reason}",
            hint="Check --image-size and --layout.",
        ) from error
    return found


def in_words(preprocess: Preprocess) -> str:
    """Return the size and the layout of an input, for messages."""
    high, wide = preprocess.sides
    return f"{high if high == wide else f'{high} x {wide}'} px in {preprocess.layout}"


def _steady(run: Any, group: list[int]) -> bool:
    first = run(group)
    return all(np.array_equal(first, run(group)) for _ in range(_REPEATS))


_REPEATS = 12  # a dropout of a few answers may well draw the same twice


def check_repeats(model: onnx.ModelProto, run: Any, batch: int, name: str) -> None:
    """Refuse a graph that draws random numbers, unless they change nothing.

    Args:
        model: The graph.
        run: Gives its answers, an array, to images by their places.
        batch: Images per run.
        name: How messages name the graph.

    Raises:
        ArtifactError: It answers otherwise to the same images.
    """
    kind, group = _draws(model), _cycle(0, batch)
    if kind and not _steady(run, group):
        raise ArtifactError(
            f"{name} cannot be used: its answers to the same image differ from run to run ({kind}).", hint=EXPORT
        )


def _draws(model: onnx.ModelProto) -> str:
    """Return the operator that may draw random numbers; empty if there is none."""
    kinds = {node.op_type for graph in graphs(model.graph) for node in graph.node}
    return next((kind for kind in sorted(kinds) if kind in ("Dropout", "Bernoulli") or kind.startswith("Random")), "")


def _burned(model: onnx.ModelProto) -> set[int]:
    """Return the batches that reshapes to a constant shape name."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: item.t for node in model.graph.node if node.op_type == "Constant"
        for item in node.attribute if item.name == "value"
    }  # fmt: skip
    shapes = [constants[n.input[1]] for n in model.graph.node if n.op_type == "Reshape" and n.input[1] in constants]
    firsts = [int(onnx.numpy_helper.to_array(shape).ravel()[0]) for shape in shapes if shape.dims and shape.dims[0] > 1]
    return {first for first in firsts if 1 < first <= _LARGEST}


def _cycle(first: int, count: int) -> list[int]:
    """Return an image and others, again and again if there are not enough."""
    return [first, *((1 + i % (_IMAGES - 1) + first) % _IMAGES for i in range(count - 1))]


def _shaped(model: onnx.ModelProto, found: np.ndarray, batch: int, name: str) -> bool:
    """Let the graph answer with rows, in place; return whether its answer has no axis for the batch.

    Raises:
        ArtifactError: It has not one number for each class and image.
    """
    shape = found.shape
    if found.ndim == 1 and batch == 1 and len(found) > 1:
        end_in(model, "Reshape", len(found))
        return True
    single = found.ndim >= 2 and shape[0] == batch and found.size == batch * max(shape[1:])
    if not single:
        raise ArtifactError(
            f"{name} answers with the shape {shape} to {batch} images; a classifier's is (n, classes).",
            hint="Name the tensor with one number for each class: --output NAME. If it is no classifier: --task any.",
        )
    if found.size == batch:
        raise ArtifactError(
            f"{name} answers with one number for an image; a classifier has one for each of two classes or more.",
            hint="Let it end in two numbers, such as a softmax over both classes, and export it again.",
        )
    if found.ndim > 2:
        end_in(model, "Flatten", found.size // batch)
    answer = model.graph.output[0]
    answer.CopyFrom(onnx.helper.make_tensor_value_info(answer.name, onnx.TensorProto.FLOAT, ["n", found.size // batch]))
    return False


def _fixed(model: onnx.ModelProto, run: Any, batch: int, name: str) -> Probed:
    """Fix the batch, and check that the first image's answer does not change with the others."""
    groups = [_cycle(place, batch) for place in range(_IMAGES)]
    answers = np.concatenate([run(group)[:1] for group in groups])
    _check_finite(answers, name)
    if batch > 1:
        others = np.concatenate([run([group[0], *[group[-1]] * (batch - 1)])[:1] for group in groups])
        if not _same(others, answers, answers, model):
            raise ArtifactError(_depends(model, name), hint=EXPORT)
    elif _trains(model):
        log.warning("%s normalizes by the statistics of its input, as in training. %s", name, EXPORT)
    log.info("each run takes %d images", batch)
    _declare(model, batch)
    return Probed(fixed_batch=batch, answers=answers)


def _depending(model: onnx.ModelProto, answers: np.ndarray, declared: int, name: str) -> Probed:
    """Fix the batch to one image where that gives what the file means; refuse the others.

    Raises:
        ArtifactError: The answers depend on the other images.
    """
    dynamic = ranges_anew(model)
    if not dynamic and declared != 1:
        raise ArtifactError(_depends(model, name), hint=EXPORT)
    why = "it computes its quantization ranges anew for each batch" if dynamic else _reason(model)
    log.warning("%s will run one image at a time: %s.", name, why)
    _declare(model, 1)
    return Probed(fixed_batch=1, answers=answers)


def ranges_anew(model: onnx.ModelProto) -> bool:
    """Whether ranges of activations are chosen for each batch, so that each image's integers hang on the others."""
    return any(node.op_type.startswith("DynamicQuantize") for graph in graphs(model.graph) for node in graph.node)


def _depends(model: onnx.ModelProto, name: str) -> str:
    return f"{name} cannot be used: {_reason(model)}."


def _reason(model: onnx.ModelProto) -> str:
    training = " (it holds batch normalization in training mode)" if _trains(model) else ""
    return f"its answers depend on the other images of a batch{training}"


def _trains(model: onnx.ModelProto) -> bool:
    """Whether a batch normalization takes the mean of the batch: it says so, or has outputs for what it updates."""
    norms = [node for graph in graphs(model.graph) for node in graph.node if node.op_type == "BatchNormalization"]
    return any(
        len([name for name in node.output if name]) > 1
        or any(a.name == "training_mode" and a.i for a in node.attribute)
        for node in norms
    )


def _same(found: np.ndarray, wanted: np.ndarray, every: np.ndarray, model: onnx.ModelProto) -> bool:
    spread = max(float(every.std()), 1e-6)
    return bool(np.abs(found - wanted).max() <= tolerance(model) * spread)


def tolerance(model: onnx.ModelProto) -> float:
    """Return by what share of their spread the answers to an image may differ from one batch to another."""
    return _SAME if precision_of(model) == "fp32" else _SAME_ROUNDED


def _check_finite(answers: np.ndarray, name: str) -> None:
    if not np.isfinite(answers).all():
        raise ArtifactError(
            f"{name} answers with numbers that are not finite (NaN or infinity).",
            hint="Check --mean and --std. If they are right, the weights may be damaged.",
        )
