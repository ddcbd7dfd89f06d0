"""Several trainings from one start, each with its own random choices, and the mean of their weights.

Such a mean often does better than each of them and costs no more to run (model soups, arXiv 2203.05482).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from tlopt import judging
from tlopt.images.pixels import Pixels
from tlopt.networks import weights
from tlopt.training import distributed
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.inputs import predict
from tlopt.training.loop import Teacher, train
from tlopt.training.outcome.history import History, score
from tlopt.training.outcome.temperature import calibrated_loss
from tlopt.training.resumption import checkpoint
from tlopt.training.resumption.checkpoint import Checkpoint, State

Weights = Mapping[str, torch.Tensor]
_Judged = TypeVar("_Judged")


def train_several(
    model: nn.Module,
    train_images: Pixels,
    val_images: Pixels | None,
    settings: Hyperparameters,
    *,
    teacher: Teacher | None = None,
    checkpoints: Checkpoint | None = None,
    note: Callable[[dict[str, float]], None] | None = None,
    beside: Pixels | None = None,
) -> tuple[History, dict[str, Any]]:
    """Train a network in place as often as `settings.soup` says, and give it the mean of those that do no harm to it.

    Arguments and errors are those of `train`. The seeds follow on `settings.seed`. Without validation images the mean
    is that of all trainings.

    Returns:
        The history of all trainings, and which of them went into the mean, as JSON types.
    """
    if settings.soup == 1:
        history = train(
            model, train_images, val_images, settings, teacher=teacher, checkpoints=checkpoints, note=note,
            beside=beside,
        )  # fmt: skip
        return history, {}
    start = weights.snapshot(model, "cpu")
    # What the caller has done before comes first.
    done = checkpoint.earlier(checkpoints)[len(checkpoints.earlier) :] if checkpoints else []
    before = checkpoints.earlier if checkpoints else ()
    for number in range(len(done), settings.soup):
        weights.load(model, start)
        one = dataclasses.replace(settings, seed=settings.seed + number)
        if done:  # the precision that the first one found to be the faster
            one = dataclasses.replace(one, precision=done[0].record["precision"])
        history = train(
            model,
            train_images,
            val_images,
            one,
            teacher=teacher,
            checkpoints=dataclasses.replace(checkpoints, earlier=(*before, *done)) if checkpoints else None,
            label=f"Training {number + 1} of {settings.soup}",
            note=note,
            beside=beside,
        )
        done.append(State(tensors=weights.snapshot(model, "cpu"), record=dataclasses.asdict(history)))
        if checkpoints is not None:  # the next training begins anew
            checkpoints = dataclasses.replace(checkpoints, resume=False)
    histories = [History(**outcome.record) for outcome in done]
    used, losses = _mix(model, done, histories, val_images)
    return _joined(histories, used[0]), {
        "soup": {"trainings": settings.soup, "used": [n + 1 for n in used], "losses": losses}
    }


def greedy(
    states: Sequence[Weights], judge: Callable[[Weights], _Judged], stays: Callable[[_Judged, _Judged], bool]
) -> tuple[list[int], list[_Judged], Weights]:
    """Return the mean of weights that each in its turn joins, if it may stay (recipe "greedy soup").

    Args:
        states: Weights of one architecture, the best first.
        judge: Returns how good weights are.
        stays: Whether the last one stays, by what was said of the mean without it and of the mean with it.

    Returns:
        The numbers of those in the mean, what was said of each mean that was tried, and the mean.
    """
    used, best = [0], states[0]
    kept = judge(best)
    said = [kept]
    for number in range(1, len(states)):
        mixed = _mean([states[n] for n in (*used, number)])
        said.append(judge(mixed))
        if stays(kept, said[-1]):
            used, kept, best = [*used, number], said[-1], mixed
    return used, said, best


def _mix(
    model: nn.Module, done: Sequence[State], histories: Sequence[History], images: Pixels | None
) -> tuple[list[int], list[float]]:
    """Give a network the mean of weights, from the best training on.

    Returns:
        Which went into it, the best first, and the loss of each mean that was tried.
    """
    if images is None:
        weights.load(model, _mean([outcome.tensors for outcome in done]))
        return list(range(len(done))), []

    def judge(mixed: Weights) -> tuple[np.ndarray, float]:
        weights.load(model, mixed)
        logits, labels = predict(model.to(distributed.device()), images, device=distributed.device())
        return logits.argmax(1) == labels, calibrated_loss(logits, labels)

    best_first = sorted(range(len(done)), key=lambda n: score(histories[n].epochs[histories[n].best]), reverse=True)
    # On a few images it is chance whether a mean gets a little worse, and the mean of all does better as a rule.
    used, said, mixed = greedy(
        [done[n].tensors for n in best_first], judge, lambda without, joined: not judging.ahead(without[0], joined[0])
    )
    weights.load(model, mixed)
    return [best_first[n] for n in used], [loss for _, loss in said]


def _mean(states: Sequence[Weights]) -> Weights:
    """Return the mean of weights; what is counted is taken from the first."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if first.is_floating_point() else first
        for name, first in states[0].items()
    }


def _joined(histories: Sequence[History], best: int) -> History:
    """Return one history of several, each epoch with the number of its training; the best epoch is that of one."""
    epochs = [{**record, "training": n} for n, one in enumerate(histories, 1) for record in one.epochs]
    before = sum(len(one.epochs) for one in histories[:best])
    return dataclasses.replace(histories[0], epochs=epochs, best=before + histories[best].best)
