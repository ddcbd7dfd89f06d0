"""Networks that are no classifiers: which outputs they have, and what is found out by running them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tlopt.cards.details import Output
from tlopt.errors import ArtifactError, SettingError, suggestion
from tlopt.graphs.cleaning import with_shapes
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.nesting import graphs
from tlopt.imports.interface import FLOATS, keep, tensor_of
from tlopt.imports.probing import EXPORT, GROUPS, Run, check_repeats, in_words, probes, ranges_anew, tolerance
from tlopt.preprocess import Preprocess
from tlopt.registry import require
from tlopt.sessions import open_session

log = logging.getLogger(__name__)

_OTHER = 0.02  # share of whole numbers that another order of sums may change
# Operators after which a length hangs on what the image shows.
_CHOOSING = frozenset({"NonMaxSuppression", "NonZero", "Unique", "Compress", "If", "Loop", "Scan"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What was found out by running a graph.

    Args:
        fixed_batch: Number of images that each run takes; 0 for any number.
        outputs: Its outputs.
    """

    fixed_batch: int
    outputs: tuple[Output, ...]


def narrow(model: onnx.ModelProto, file: Path, *, input_name: str = "", names: Sequence[str] = ()) -> onnx.ModelProto:
    """Return a graph of one input, the image, and its outputs, floats in float32.

    Args:
        model: Stays as it is.
        file: Its name, for messages.
        input_name: The input that is the image; empty if there is but one.
        names: The outputs, or tensors inside, that are wanted; all outputs if there are none.

    Raises:
        SettingError: There is no tensor of a name, or one is named twice.
        ArtifactError: An output is no tensor of numbers, or there are several inputs.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    outputs = [value.name for value in made.graph.output]
    inside = [tensor for node in made.graph.node for tensor in node.output if tensor]
    if unknown := [name for name in names if name not in (*outputs, *inside)]:
        raise SettingError(f"{file} has no tensor {unknown[0]!r}.", hint=suggestion(unknown[0], [*outputs, *inside]))
    if len(set(names)) != len(names):
        raise SettingError(f"output names a tensor twice, got {', '.join(names)}.")
    answers = [tensor_of(made, name) for name in names or outputs]
    for value in answers:
        _check(value, file)
    keep(made, file, answers, input_name)
    _answer_floats(made.graph)
    return made


def _check(value: onnx.ValueInfoProto, file: Path) -> None:
    kind = value.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        what = str(kind).removesuffix("_type")
    elif value.type.tensor_type.elem_type in (TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        what = str(TensorProto.DataType.Name(value.type.tensor_type.elem_type)).lower()
    else:
        return
    raise ArtifactError(
        f"The output {value.name!r} of {file} is no tensor of numbers ({what}).",
        hint="Name the outputs to keep, or the tensors before them: --output NAME,NAME.",
    )


def _answer_floats(graph: onnx.GraphProto) -> None:
    """Let every output of another float type be cast to float32, under its own name, in place."""
    for value in graph.output:
        kind = value.type.tensor_type.elem_type
        if kind not in FLOATS or kind == TensorProto.FLOAT:
            continue
        inner = free_name(f"{value.name}.own", taken_names(graph))
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if name == value.name else name for name in names]
        graph.node.append(helper.make_node("Cast", [inner], [value.name], to=TensorProto.FLOAT))
        value.type.tensor_type.elem_type = TensorProto.FLOAT


def pin(model: onnx.ModelProto, preprocess: Preprocess) -> None:
    """Write the sides and channels of the image into the graph's input, in place; shapes inside are forgotten."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, length in zip(list(dims)[1:], preprocess.input_shape, strict=True):
        dim.CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=length))
    for graph in graphs(model.graph):
        del graph.value_info[:]


def probe(model: onnx.ModelProto, preprocess: Preprocess, name: str) -> Found:
    """Run a graph in several batches. Its batch is freed, or fixed to what it takes, in place.

    Args:
        model: What `narrow` returned, pinned.
        preprocess: How images become its input.
        name: Of its file, for messages.

    Raises:
        ArtifactError: It cannot be run, answers with numbers that are not finite, otherwise each time, or in rows that
            belong to several images.
        MissingLibraryError: ONNX Runtime is not installed.
    """
    require("onnxruntime")  # its absence is not the file's fault
    declared = int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)
    inputs = preprocess.normalize(probes(preprocess))
    _declare(model, 0)
    run = _runner(model, inputs)
    size, alone = 1, _tried(run, [0], preprocess, name)
    if isinstance(alone, str) and declared > 1:
        size, alone = declared, _tried(run, [i % len(inputs) for i in range(declared)], preprocess, name)
    if isinstance(alone, str):
        raise ArtifactError(alone, hint="Check --image-size, --image-width and --layout.")
    check_repeats(model, lambda places: np.concatenate([np.ravel(values) for values in run(places)]), size, name)
    if size > 1:
        return _fixed(model, run, size, name)
    singles = [run([place]) for place in range(len(inputs))]
    _check_finite([values for answer in singles for values in answer], name)
    free = not ranges_anew(model) and _together(run, singles, model)
    if not free:
        log.info("%s runs one image at a time", name)
    _declare(model, 0 if free else 1)
    outputs = _described(model, singles, batched=free)
    return Found(fixed_batch=0 if free else 1, outputs=outputs)


def _declare(model: onnx.ModelProto, batch: int) -> None:
    free = onnx.TensorShapeProto.Dimension(dim_param="n")
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    dim.CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=batch) if batch else free)
    # What a file declares of its outputs' shapes may be wrong, or of another image size.
    for value in model.graph.output:
        kind = value.type.tensor_type.elem_type
        typed = helper.make_tensor_value_info(value.name, kind, None)
        value.CopyFrom(typed if kind else onnx.ValueInfoProto(name=value.name))


def _runner(model: onnx.ModelProto, inputs: np.ndarray) -> Run:
    session, name = open_session(model), model.graph.input[0].name

    def run(places: Sequence[int]) -> list[np.ndarray]:
        return [np.asarray(values) for values in session.run(None, {name: inputs[list(places)]})]

    return run


def _tried(run: Run, places: list[int], preprocess: Preprocess, name: str) -> list[np.ndarray] | str:
    """Return what a graph answers, or why it cannot be run."""
    try:
        found: list[np.ndarray] = run(places)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base but Exception
        reason = str(error).strip().partition("\n")[0]
        return f"{name} cannot be run on images of {in_words(preprocess)}, {len(places)} at once: {reason}"
    return found


def _together(run: Run, singles: list[list[np.ndarray]], model: onnx.ModelProto) -> bool:
    """Whether several images at once give each the outputs that it has alone."""
    try:
        found = [(group, run(group)) for group in GROUPS]
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base but Exception
        log.info("the graph fixes its batch: %s", error)
        return False
    for group, answer in found:
        for place, values in enumerate(answer):
            wanted = [singles[image][place] for image in group]
            if values.ndim == 0 or any(one.ndim == 0 or len(one) != 1 for one in wanted):
                return False
            if values.shape[0] != len(group) or any(one.shape[1:] != values.shape[1:] for one in wanted):
                return False
            if not same(values, np.concatenate(wanted), tolerance(model)):
                return False
    return True


def same(found: np.ndarray, wanted: np.ndarray, most: float) -> bool:
    """Whether an output is the one that is wanted, of the same shape, but for what another order of sums changes.

    Args:
        found: The output.
        wanted: What it should be.
        most: By what share of their spread numbers may differ.
    """
    if not np.issubdtype(found.dtype, np.floating):
        return bool((found != wanted).mean() <= _OTHER) if found.size else True
    return bool(np.abs(found - wanted).max(initial=0) <= most * max(float(wanted.std()) if wanted.size else 0, 1e-6))


def _fixed(model: onnx.ModelProto, run: Run, size: int, name: str) -> Found:
    """Fix the batch to several images; every output must have rows for each."""
    count = 6
    groups = [[(first + i) % count for i in range(size)] for first in range(count)]
    answers = [run(group) for group in groups]
    _check_finite([values for answer in answers for values in answer], name)
    if any(values.ndim == 0 or len(values) != size for answer in answers for values in answer):
        raise ArtifactError(
            f"{name} takes {size} images at once and answers with rows that belong to several of them.",
            hint="Export it with a batch of 1.",
        )
    others = run([groups[0][0], *[groups[0][-1]] * (size - 1)])
    if not all(same(a[:1], b[:1], tolerance(model)) for a, b in zip(others, answers[0], strict=True)):
        raise ArtifactError(f"{name} cannot be used: its answers depend on the other images of a batch.", hint=EXPORT)
    _declare(model, size)
    first = [[values[:1] for values in answer] for answer in answers]
    log.info("each run takes %d images", size)
    return Found(fixed_batch=size, outputs=_described(model, first, batched=True))


def _described(model: onnx.ModelProto, singles: list[list[np.ndarray]], *, batched: bool) -> tuple[Output, ...]:
    """Return the outputs for the card, and write their shapes into the graph, in place.

    Args:
        model: The graph.
        singles: What it answered to single images, each with an axis for the batch if `batched`.
        batched: Whether the first axis of every output runs over the images.
    """
    inferred = _inferred(model)
    chooses = any(node.op_type in _CHOOSING for graph in graphs(model.graph) for node in graph.node)
    skip = 1 if batched else 0
    outputs = []
    for place, value in enumerate(model.graph.output):
        shapes = np.array([answer[place].shape for answer in singles])
        known = inferred.get(value.name, [])
        lengths = []
        for axis in range(skip, shapes.shape[1]):
            sure = not chooses or (len(known) == shapes.shape[1] and known[axis] > 0)
            lengths.append(int(shapes[0, axis]) if sure and (shapes[:, axis] == shapes[0, axis]).all() else 0)
        dtype = singles[0][place].dtype
        outputs.append(Output(name=value.name, dtype=dtype.name, shape=tuple(lengths), batched=batched))
        batch = [model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or "n"] if batched else []
        dims = [*batch, *(length or f"{value.name}_{axis}" for axis, length in enumerate(lengths))]
        value.CopyFrom(helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(dtype), dims))
    return tuple(outputs)


def _inferred(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the shapes of the outputs as far as they follow from the input's, 0 for a length that does not."""
    try:
        found = with_shapes(model)
    except Exception as error:  # noqa: BLE001 - what it raises is no part of its contract; then nothing is known
        log.debug("shape inference: %s", error)
        return {}
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in found.graph.output}


def _check_finite(arrays: list[np.ndarray], name: str) -> None:
    for values in arrays:
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise ArtifactError(
                f"{name} answers with numbers that are not finite (NaN or infinity).",
                hint="Check --mean and --std. If they are right, the weights may be damaged.",
            )
