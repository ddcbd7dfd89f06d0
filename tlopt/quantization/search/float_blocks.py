"""Which blocks stay float: those that were asked for, and those that a search finds."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import onnx

from tlopt import judging
from tlopt.cards.details import AnswerKind, Output, Sensitivity
from tlopt.errors import SettingError
from tlopt.graphs.view import View
from tlopt.images import ImageFolder, batches
from tlopt.preprocess import Preprocess
from tlopt.quantization.int8 import Calibrated
from tlopt.quantization.search import blocks
from tlopt.quantization.search.blocks import Block
from tlopt.quantization.search.losses import Run
from tlopt.quantization.search.sensitivity import Search, search
from tlopt.quantization.search.trials import Times, Trials

log = logging.getLogger(__name__)

_BATCH, _BATCH_ANY = 32, 4  # images that are run at once; of other networks than classifiers fewer


def named(view: View, names: Sequence[str], *, tail: bool = False) -> list[Block]:
    """Return the blocks of these names, in the graph's order; `first` is the first whatever its name.

    Args:
        view: Of the graph.
        names: Of the blocks.
        tail: See `blocks.blocks_of`.

    Raises:
        SettingError: There is none of a name.
    """
    if not names:
        return []
    found = blocks.blocks_of(view, tail=tail)
    wanted = {found[0].name if name == "first" else name for name in names}
    if unknown := sorted(wanted - {block.name for block in found}):
        known = ", ".join(block.name for block in found)
        raise SettingError(f"The graph has no block {unknown[0]!r}.", hint=f"Its blocks: {known}.")
    return [block for block in found if block.name in wanted]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What trials of mixed networks run on.

    Args:
        source: Opens the float network.
        mixed: Opens a graph of int8 and float blocks.
        times: Two networks and a batch -> batch size -> milliseconds of each; None if they cannot be timed here.
        images: What they are judged by.
        preprocess: How images become inputs.
        labelled: Whether the images' labels are the network's classes.
        answers: What the network's numbers mean.
        outputs: Its outputs, if it is no classifier; then the limit is a share of noise in the worst of them.
    """

    source: Callable[[], AbstractContextManager[Run]]
    mixed: Callable[[onnx.ModelProto], AbstractContextManager[Run]]
    times: Times | None
    images: ImageFolder
    preprocess: Preprocess
    labelled: bool
    answers: AnswerKind = "logits"
    outputs: tuple[Output, ...] = ()


def within(
    calibrated: Calibrated, bench: Bench, max_drop: float, *, asked: Collection[Block] = ()
) -> tuple[list[str], Sensitivity]:
    """Find the fewest blocks to leave float that keep the loss within a limit.

    Args:
        calibrated: The network.
        bench: What runs it.
        max_drop: Largest loss; see `Bench.outputs` and `losses.Loss`.
        asked: Blocks that stay float anyway.

    Returns:
        The names of the nodes to leave float, and what the card says about it.
    """
    if not bench.outputs and len(bench.images) * max_drop < 1:
        log.warning(
            "%d images outside of the calibration are too few to show a drop of %g", len(bench.images), max_drop
        )
    out = {block.name for block in asked}
    every = blocks.blocks_of(calibrated.view, tail=bool(bench.outputs))
    nodes = {block.name: block.nodes for block in every if block.name not in out}

    def without(floats: Collection[str]) -> list[str]:
        return [node for name in floats for node in nodes[name]]

    raw = replace(bench.preprocess, folded=True)
    size = _BATCH_ANY if bench.outputs else _BATCH
    seen = list(batches(bench.images, raw, batch=size, label="Reading images"))
    labels = np.concatenate([part.labels for part in seen]) if bench.labelled else None
    with contextlib.ExitStack() as stack:
        trials = Trials(
            float_=stack.enter_context(bench.source()),
            opened=lambda floats: bench.mixed(calibrated.graph(without(floats))),
            inputs=lambda: (bench.preprocess.normalize(part.inputs) for part in seen),
            labels=labels,
            times=bench.times,
            answers=bench.answers,
            outputs=bench.outputs,
        )
        found = search(list(nodes), stack.enter_context(trials).measure, max_drop, trials.source_ms)
    _tell(found, max_drop, outputs=bool(bench.outputs))
    reasons, trade_off, alone = found.account()
    return without(found.chosen.floats), Sensitivity(
        max_drop=max_drop,
        met=found.met,
        drop_of="noise" if bench.outputs else "agreement" if labels is None else "accuracy",
        images=sum(len(part.labels) for part in seen),
        float_blocks=reasons,
        trade_off=trade_off,
        blocks=alone,
    )


def _tell(found: Search, max_drop: float, *, outputs: bool) -> None:
    kept = ", ".join(found.chosen.floats) or "no block"
    if found.met:
        log.info("%s left float: drop %.4f, %.1f dB", kept, found.chosen.drop, found.chosen.snr_db)
        return
    if outputs:
        log.warning(
            "No set of float blocks keeps every output at %g dB and is faster than fp32. Best found: %s, with %.1f dB.",
            round(judging.decibels(max_drop), 2), kept, found.chosen.snr_db,
        )  # fmt: skip
        return
    log.warning(
        "No set of float blocks keeps the drop within %g and is faster than fp32. Best found: %s, with a drop of %.4f.",
        max_drop, kept, found.chosen.drop,
    )  # fmt: skip
