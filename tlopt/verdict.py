"""What a quantized graph is worth beside its source: its answers, its speed, and whether it does harm."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from tlopt import judging, outputs
from tlopt.artifact import Artifact
from tlopt.backends import Runner, call_of, open_runner, outputs_of, saturates_here
from tlopt.backends._answers import check_outputs
from tlopt.backends._logits import check_logits
from tlopt.cards.details import BesideSource, Measured, Quantized
from tlopt.errors import CheckError, MissingLibraryError, NotFiniteError, StageError
from tlopt.images import ImageFolder, batches
from tlopt.progress import NOTICE
from tlopt.timing import medians_ms

log = logging.getLogger(__name__)

TIMED = (1, 32)  # batches that both are timed at
TIMED_ANY = (1, 4)  # the same for networks that are no classifiers: their images are larger
SECONDS = 1.5  # that both are timed for, at each batch
LEAST_DB = 10.0  # below it the error of the logits is a third of what they tell, or more
LEAST_SHARE = 0.9  # of the multiply-adds in 8 bits; below it the conversions between float and integers weigh
_TURNS = 4  # of each in that time
_MARGIN = 1.03  # what a latency may be above the other's and still count as the same
_BATCH, _BATCH_ANY = 32, 4

Run = Callable[[np.ndarray], object]


def backend_of(runtime: str) -> str:
    """Return what runs a graph here that was made for a runtime."""
    return "openvino" if runtime == "openvino" else "onnxruntime"


def beside_source(source: Artifact, made: Artifact, judged: ImageFolder, runtime: str) -> Measured:
    """Compare a quantized graph with its source: answers on held-out images, and latency.

    Args:
        source: The float artifact.
        made: The quantized one, complete but for its card's file.
        judged: Images.
        runtime: What the graph was made for.

    Raises:
        StageError: The runtime cannot run an int8 graph that was made for it.
    """
    backend = backend_of(runtime)
    measured = Measured(backend=backend)
    with contextlib.ExitStack() as stack:
        try:
            before = stack.enter_context(open_runner(source, backend))
            after = stack.enter_context(open_runner(made, backend))
            found_of = _answers if source.card.task == "classify" else _outputs
            measured, images = found_of(measured, source, made, judged, before, after)
        except NotFiniteError:
            raise
        except (StageError, MissingLibraryError) as error:
            if made.card.precision == "int8" and runtime == backend and isinstance(error, StageError):
                raise StageError(
                    f"{runtime} cannot run the int8 graph that was made for it: {error.message}",
                    hint="Name a block to leave float with --float-blocks, or another runtime with --for.",
                ) from error
            # ONNX Runtime's processor kernels know no bfloat16, for one: the file may serve elsewhere.
            log.warning("not measured: %s", error.message)
            return replace(measured, not_timed=f"{backend} cannot run it here: {error.message}")
        if runtime == "tensorrt":
            return replace(measured, not_timed="TensorRT runs it only as an engine")
        runs = call_of(before, source), call_of(after, made)
        found = times(*runs, images, seconds=SECONDS, sizes=timed_batches(source))
    return replace(
        measured,
        latency_ms={
            str(size): BesideSource(source=round(own, 3), result=round(made_ms, 3))
            for size, (own, made_ms) in found.items()
        },
        slower_at_batch=tuple(size for size, (own, made_ms) in found.items() if made_ms > _MARGIN * own),
    )


def _answers(
    measured: Measured, source: Artifact, made: Artifact, judged: ImageFolder, before: Runner, after: Runner
) -> tuple[Measured, np.ndarray]:
    """Return what was measured of the answers, and the last batch of inputs."""
    answers: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for found in batches(judged, source.card.preprocess, batch=_BATCH, label="Judging"):
        own = check_logits(before(found.inputs), source, measured.backend)
        logits = check_logits(after(found.inputs), made, measured.backend)
        answers.append((own, logits, found.labels))
    own, logits, truth = (np.concatenate(column) for column in zip(*answers, strict=True))
    reference, labels = own.argmax(1), logits.argmax(1)
    accuracy = BesideSource(
        source=round(judging.agreement(reference, truth), 4), result=round(judging.agreement(labels, truth), 4)
    )
    own, logits = (judging.as_logits(found, source.card.answers) for found in (own, logits))
    measured = replace(
        measured,
        images=len(truth),
        agreement=round(judging.agreement(reference, labels), 4),
        snr_db=round(judging.decibels(judging.noise(logits, own)), 2),
        saturated=saturates_here(made, measured.backend),
        accuracy=accuracy if judged.classes == source.card.classes else None,
    )
    return measured, found.inputs


def _outputs(
    measured: Measured, source: Artifact, made: Artifact, judged: ImageFolder, before: Runner, after: Runner
) -> tuple[Measured, np.ndarray]:
    """Return what was measured of the outputs, and the last batch of inputs."""
    errors, count = outputs.Errors(source.card.outputs), 0
    for found in batches(judged, source.card.preprocess, batch=_BATCH_ANY, label="Judging"):
        own = check_outputs(outputs_of(before)(found.inputs), source, measured.backend)
        answers = check_outputs(outputs_of(after)(found.inputs), made, measured.backend)
        for reference, answer in zip(own, answers, strict=True):
            errors.add(reference, answer)
        count += len(own)
    each = errors.found()
    measured = replace(
        measured,
        images=count,
        snr_db=outputs.worst(each),
        saturated=saturates_here(made, measured.backend),
        outputs=each,
    )
    return measured, found.inputs


def timed_batches(artifact: Artifact) -> tuple[int, ...]:
    """Return the batches that an artifact is timed at."""
    if artifact.card.task == "classify":
        return TIMED
    return TIMED_ANY if artifact.card.onnx.fixed_batch == 0 else (artifact.card.onnx.fixed_batch,)


def times(
    before: Run, after: Run, images: np.ndarray, *, seconds: float, sizes: tuple[int, ...] = TIMED
) -> dict[int, tuple[float, float]]:
    """Time two networks in turns: batch -> medians, milliseconds.

    Args:
        before: One network.
        after: The other.
        images: A batch of inputs.
        seconds: That both take together, at each batch.
        sizes: The batches.
    """
    found = {}
    for size in sizes:
        inputs = np.ascontiguousarray(np.resize(images, (size, *images.shape[1:])))
        calls = [partial(run, inputs) for run in (before, after)]
        own, made = medians_ms(calls, seconds=seconds / 2, turns=_TURNS, warm_s=seconds / 4)
        found[size] = (own, made)
    return found


def slower(measured: Measured) -> str:
    """Return at which batches a graph is slower than its source, and how much; empty if at none."""
    told = []
    for size in measured.slower_at_batch:
        found = (measured.latency_ms or {})[str(size)]
        told.append(f"at batch {size}: {found.result:.2f} ms against {found.source:.2f} ms")
    return "; ".join(told)


def harm(quantized: Quantized, measured: Measured) -> list[str]:
    """Return what a person should know of a graph's answers and integers before they ship it, if anything."""
    told = []
    bad = [error for error in measured.outputs if outputs.worst([error]) < LEAST_DB]
    if bad:
        told.append(
            f"outputs are far from the source's: {', '.join(map(outputs.said, bad))}. A sound result has 20 dB or "
            "more. See --min-db and --float-blocks."
        )
    elif measured.snr_db is not None and measured.snr_db < LEAST_DB:
        told.append(
            f"the logits are far from the source's: {measured.snr_db:.1f} dB, where a sound result has 20 or more. "
            "See --max-drop and --float-blocks."
        )
    inside, every = quantized.eight_bit_macs, quantized.macs
    asked = quantized.float_blocks or quantized.sensitivity
    if inside is not None and every is not None and inside < LEAST_SHARE * every and not asked:
        told.append(
            f"{_millions(inside)} of {_millions(every)} million multiply-adds in int8. The others stay float: "
            "they have no constant weights, or the runtime has no integer kernel that is faster."
        )
    return told


def tell(source: Artifact, precision: str, quantized: Quantized, measured: Measured, *, require_faster: bool) -> None:
    """Warn of a result that does harm.

    Raises:
        CheckError: It is slower than its source, or was not timed, and has to be faster.
    """
    if measured.outputs:
        log.log(NOTICE, "Judged by the error of each output on %d images: %s.", measured.images,
                "; ".join(map(outputs.said, measured.outputs)))  # fmt: skip
    for warning in harm(quantized, measured):
        log.warning("%s", warning)
    if where := slower(measured):
        message = f"{precision} is slower than {source.path} {where}."
        if require_faster:
            raise CheckError(message, hint="Keep the source, or quantize for another runtime with --for.")
        log.warning("%s", message)
    elif require_faster and measured.latency_ms is None:
        raise CheckError(
            f"Whether {precision} is faster could not be measured: {measured.not_timed}.",
            hint="Leave --require-faster out, and time the result with tlopt bench on the machine that will run it.",
        )


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g}"
