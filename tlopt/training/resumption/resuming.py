"""What a training run writes down to be able to go on, and how it goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any

from tlopt.errors import SettingError
from tlopt.networks.weights import load
from tlopt.training.optimization.precision import arithmetic
from tlopt.training.resumption import checkpoint
from tlopt.training.resumption.checkpoint import State

if TYPE_CHECKING:
    from tlopt.training.loop import Run

log = logging.getLogger(__name__)


def save(run: Run) -> None:
    """Write a checkpoint, if one is wanted."""
    if run.checkpoints is None or run.rank != 0:
        return
    state = State()
    state.put("model", run.model.state_dict())
    state.put("best", run.best)
    if run.average is not None:
        state.put("average", run.average.state())
    if run.anchor is not None:
        state.put("anchor", run.anchor.state())
    state.put("matcher", run.matcher.state())
    tensors, values = checkpoint.optimizer_state(run.optimizer)
    state.put("optimizer", tensors)
    for number, outcome in enumerate(run.checkpoints.earlier):
        state.put(f"earlier/{number}", outcome.tensors)
    state.record = {
        "identity": _identity(run),
        "earlier": [outcome.record for outcome in run.checkpoints.earlier],
        "optimizer": values,
        "history": run.history.epochs,
        "best": run.history.best,
        "done": run.done,
        "total": run.total,
        "first_loss": run.first_loss,
        "seconds": run.seconds,
        "scale": run.arithmetic.scale(),
        "precision": run.history.precision,
        "trial": run.history.trial,
        "average_steps": run.average.steps if run.average else 0,
    }
    checkpoint.write(run.checkpoints.file, state)
    run.saved = time.monotonic()


def restore(run: Run) -> None:
    """Take up the checkpoint, if there is one and it is wanted.

    Raises:
        SettingError: The checkpoint is of a run with other settings or images.
        ArtifactError: It is damaged.
    """
    if run.checkpoints is None or not run.checkpoints.resume:
        return
    state = checkpoint.read(run.checkpoints.file)
    if state is None:
        return
    with checkpoint.taking_up(run.checkpoints.file):
        _check(run, state)
        _take_up(run, state)
    log.info("going on from step %d of %s", run.done, run.checkpoints.file)


def _identity(run: Run) -> dict[str, Any]:
    """Return what must be the same for a run to go on."""
    images = [run.train_images.folder.digest, run.val_images.folder.digest if run.val_images is not None else ""]
    if run.beside is not None:
        # Answers that differ in their last bits change no run that goes on; other labels or images do.
        images.append(f"{run.beside.folder.digest} {hashlib.sha256(run.beside.folder.labels.tobytes()).hexdigest()}")
    return {"settings": dataclasses.asdict(run.settings), "images": images, "world": run.world}


def _check(run: Run, state: State) -> None:
    """Refuse the state of a run with other settings, images or tensors."""
    assert run.checkpoints is not None
    hint = f"Resume with the same settings, or delete {run.checkpoints.folder} and start again."
    saved, own = state.record["identity"], _identity(run)
    if saved != own:
        differ = [k for k, v in own["settings"].items() if saved["settings"].get(k) != v] or ["images"]
        raise SettingError(
            f"The checkpoint {run.checkpoints.file} belongs to a run with other settings: {', '.join(differ)}.",
            hint=hint,
        )
    if state.take("model").keys() != run.model.state_dict().keys():
        raise SettingError(
            f"The checkpoint {run.checkpoints.file} belongs to another network, or to a run with another --for "
            "or --reduce-range.",
            hint=hint,
        )


def _take_up(run: Run, state: State) -> None:
    record = state.record
    load(run.model, state.take("model"))
    run.best = {name: tensor.to(run.device) for name, tensor in state.take("best").items()}
    if run.average is not None:
        run.average.restore(state.take("average"), record["average_steps"])
    if run.anchor is not None:
        run.anchor.restore(state.take("anchor"))
    run.matcher.restore(state.take("matcher"))
    checkpoint.restore_optimizer(run.optimizer, state.take("optimizer"), record["optimizer"])
    if trial := record.get("trial"):  # what it began with, whatever is faster today
        run.history.trial, run.history.precision = dict(trial), record["precision"]
        run.arithmetic = arithmetic(run.history.precision, run.device)
    run.arithmetic.restore(record["scale"])
    run.history.epochs, run.history.best = record["history"], record["best"]
    run.done, run.total = record["done"], record["total"]
    run.first_loss, run.seconds = record["first_loss"], record["seconds"]
