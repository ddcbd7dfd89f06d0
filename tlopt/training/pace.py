"""Which precision computes a training step faster here: the candidates take turns before the first step."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from tlopt.networks import buffers
from tlopt.timing import quiet
from tlopt.training import distributed, freezing
from tlopt.training.hyperparameters import Precision
from tlopt.training.inputs import to_inputs
from tlopt.training.optimization.precision import arithmetic, candidates

if TYPE_CHECKING:
    from tlopt.training.loop import Run

log = logging.getLogger(__name__)

_WORTH = 50  # steps of a training that is long enough to look for the faster precision: a trial takes as long as ten
_TINY = 2  # images of the first steps, which show how many images a turn can have
_HOPELESS = 2.0  # times as long in the first steps: no turns follow
_STEP_S = 0.5  # longest step of a turn: the trial then takes a few seconds
_FEWEST = 8  # images of a turn: with fewer, work on the weights outweighs that on the images
_LEAST, _MOST = 2, 7  # turns
_TURNS_S = 3.0  # after which no turn begins, once there were enough
_CLEAR = 0.9  # of the other's fastest step: where all of one's steps take less than that, no further turn is needed
_LONG_S = 0.3  # of all steps, to be clear: short ones cost little, and a single interruption decides among few of them
_GAIN = 0.05  # of the time: less is not worth another rounding
_ALL: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
_DEVICES = {"cpu": "processor", "cuda": "GPU"}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a run was given to compute in, and what was timed.

    Args:
        precision: The choice.
        reason: Why, in words.
        step_ms: Precision -> median time of a step's passes forward and back; empty if nothing was timed.
        images: Of each timed step.
        turns: Timed steps of each precision.
    """

    precision: Precision
    reason: str
    step_ms: Mapping[str, float] = field(default_factory=dict)
    images: int = 0
    turns: int = 0

    def record(self) -> dict[str, Any]:
        """Return what the card says, as JSON types."""
        told: dict[str, Any] = {"chosen": self.precision, "reason": self.reason}
        return told | (
            {"step_ms": dict(self.step_ms), "images": self.images, "turns": self.turns} if self.turns else {}
        )


def settle(run: Run, *, below: int, steps: int) -> None:
    """Give a run with precision "auto" the faster of its candidates, and write down why.

    What is timed is a step's passes forward and back through the network as it will train, with its image size and
    its batch, or the part of it that takes half a second. Weights and optimizer are not touched. What
    the passes do change is put back: the training is the one that the precision by name would have given.

    Args:
        run: About to begin. A run that goes on from a checkpoint keeps the precision it began with.
        below: Index of the first stage that trains.
        steps: That are left of the training.
    """
    if run.settings.precision != "auto" or run.history.trial:
        return
    names = candidates("auto", run.device)
    if len(names) == 1:
        trial = Trial(precision=names[0], reason=f"the only candidate on this {_DEVICES[run.device.type]}")
    elif steps < _WORTH:
        trial = Trial(precision=names[0], reason=f"fewer than {_WORTH} steps are too short a training to time others")
    else:
        trial = _tried(run, names, below)
    trial = _shared(trial)
    run.arithmetic = arithmetic(trial.precision, run.device)
    run.history.precision, run.history.trial = trial.precision, trial.record()
    log.info("training computes in %s: %s", trial.precision, trial.reason)


def choose(times: Mapping[Precision, Sequence[float]]) -> tuple[Precision, str]:
    """Return the precision to take by the times of its steps, and the reason.

    The first one stays unless another is faster beyond the noise: its median is below the first one's by 5 %, and
    below every single time of the first one.

    Args:
        times: Precision -> seconds of each timed step. The first one is the one to beat.
    """
    (first, own), *others = times.items()
    medians = {name: statistics.median(values) for name, values in times.items()}
    name = min((name for name, _ in others), key=medians.__getitem__)
    ratio = medians[name] / medians[first]
    if ratio < 1 - _GAIN and medians[name] < min(own):
        return name, f"a step takes {ratio:.2f} times as long as in {first}"
    if ratio > 1:
        return first, f"a step takes {ratio:.2f} times as long in {name}"
    return first, f"{name} is not faster beyond the noise: {ratio:.2f} times as long"


def clear(times: Mapping[Precision, Sequence[float]]) -> bool:
    """Return whether every step of one precision was faster than every step of the others by a tenth or more.

    Such a difference is twice the one that `choose` asks for: more steps would not change the choice. Steps that took
    0.3 seconds in all or less are never clear.

    Args:
        times: Precision -> seconds of each timed step.
    """
    if sum(map(sum, times.values())) <= _LONG_S:
        return False
    fastest = min(times, key=lambda name: max(times[name]))
    others = [min(values) for name, values in times.items() if name != fastest]
    return max(times[fastest]) < _CLEAR * min(others)


def _shared(trial: Trial) -> Trial:
    """Return the choice of the first process, which all processes have to share."""
    (index,) = distributed.first(_ALL.index(trial.precision))
    chosen = _ALL[int(index)]
    return trial if chosen == trial.precision else Trial(precision=chosen, reason="the first process chose it")


def _tried(run: Run, names: Sequence[Precision], below: int) -> Trial:
    """Time the candidates in turns."""
    first, few = names[0], min(_TINY, run.own_batch)
    with _unchanged(run, below), quiet():
        tiny = {first: min(_seconds(run, first, few) for _ in range(2))}
        for name in names[1:]:
            try:
                tiny[name] = min(_seconds(run, name, few) for _ in range(2))
            except RuntimeError as error:  # a layer of the user's own that knows fp32 only
                log.info("no training in %s: %s", name, str(error).partition("\n")[0])
        hopeful = [name for name in tiny if tiny[name] < _HOPELESS * tiny[first]]
        images = min(run.own_batch, max(_FEWEST, int(few * _STEP_S / max(tiny[name] for name in hopeful))))
        times = _turns(run, hopeful, images) if len(hopeful) > 1 else {}
    if not times:
        worse = ", ".join(f"{tiny[name] / tiny[first]:.1f} times as long in {name}" for name in tiny if name != first)
        reason = f"a first step takes {worse}" if worse else "no other one works with this network"
        return Trial(precision=first, reason=reason, step_ms=_ms(tiny), images=few, turns=1)
    chosen, reason = choose(times)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return Trial(precision=chosen, reason=reason, step_ms=_ms(medians), images=images, turns=len(times[chosen]))


def _turns(run: Run, names: Sequence[Precision], images: int) -> dict[Precision, list[float]]:
    """Return the seconds of each candidate's steps, warm and in turns."""
    for name in names:
        _seconds(run, name, images)  # kernels for this shape are made
    times: dict[Precision, list[float]] = {name: [] for name in names}
    began = time.perf_counter()
    for turn in range(_MOST):
        if turn >= _LEAST and (time.perf_counter() - began > _TURNS_S or clear(times)):
            break
        for name in names if turn % 2 == 0 else reversed(names):
            times[name].append(_seconds(run, name, images))
    return times


def _ms(seconds: Mapping[Precision, float]) -> dict[str, float]:
    return {name: round(1e3 * value, 2) for name, value in seconds.items()}


def _seconds(run: Run, name: Precision, images: int) -> float:
    """Return how long a batch of noise takes forward and back."""
    preprocess, classes = run.train_images.preprocess, len(run.counts)
    noise = np.random.default_rng(0).integers(256, size=(images, preprocess.size, preprocess.size, 3), dtype=np.uint8)
    inputs = to_inputs(noise, preprocess, run.device)
    targets = functional.one_hot(torch.arange(images, device=run.device) % classes, classes).float()
    run.arithmetic = arithmetic(name, run.device)
    began = time.perf_counter()
    # Uncompiled, and without the exchange between processes: it is the same for all candidates.
    run.gradients(run.model, inputs, targets)
    taken = time.perf_counter() - began
    run.optimizer.zero_grad(set_to_none=True)
    return taken


@contextlib.contextmanager
def _unchanged(run: Run, below: int) -> Iterator[None]:
    """Put a run's network into training mode, and at the end put back all that the passes through it change."""
    model, own = run.model, run.arithmetic
    modes = [(module, module.training) for module in model.modules()]
    trains = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    run.optimizer.zero_grad(set_to_none=True)
    freezing.freeze(model, below=below)
    freezing.set_mode(model, below=below, frozen_norm=run.settings.frozen_norm)
    try:
        with torch.random.fork_rng(devices=[]), buffers.kept(run.networks):
            yield
    finally:
        run.arithmetic = own
        for parameter, trained, gradient in trains:
            parameter.requires_grad_(trained)
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
