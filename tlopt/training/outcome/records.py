"""What a training run leaves beside the weights: metrics by epoch, pictures, TensorBoard events."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlopt import judging, registry
from tlopt.training.methods.transfer import Transfer
from tlopt.training.outcome import pictures
from tlopt.training.outcome.metrics import agreement, summary

log = logging.getLogger(__name__)

# What numbers are called where images have no labels: in the record of an epoch, and of a candidate.
_EPOCH = {"val_accuracy": "val_agreement", "val_loss": "val_divergence"}
_CANDIDATE = {"accuracy": "agreement", "loss": "divergence"}
_TIMES = ("seconds", "images_per_s")


def write(folder: Path, outcome: Transfer, classes: tuple[str, ...], *, tensorboard: bool = False) -> dict[str, Any]:
    """Write a run's records into a folder, and return the metrics for the card.

    Makes ``metrics.jsonl`` (one line per epoch, then one with the validation metrics of the weights that
    were kept), ``confusion_matrix.svg`` (of the validation images, if they have labels) and, if anything was
    trained step by step, ``learning_curves.svg``. Without labels, the metrics are of the agreement with the
    answers to reach.

    Args:
        folder: Where the files go.
        outcome: Of the run.
        classes: Class names.
        tensorboard: Also write TensorBoard events into ``tensorboard/``.

    Raises:
        MissingLibraryError: TensorBoard is not installed.
    """
    epochs = outcome.history.epochs
    if outcome.answers is None:
        metrics = {"validation": summary(outcome.logits, outcome.labels, classes), **outcome.details}
    else:
        metrics = {"agreement": agreement(outcome.logits, outcome.answers), **outcome.details}
        metrics["candidates"] = [_renamed(record, _CANDIDATE) for record in outcome.details["candidates"]]
        epochs = [_renamed(record, _EPOCH) for record in epochs]
    # Times are no part of the payload: the same run twice makes the same artifact.
    lines = [{name: value for name, value in record.items() if name not in _TIMES} for record in epochs]
    text = "".join(json.dumps(line) + "\n" for line in [*lines, metrics])
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    try:
        if outcome.answers is None:
            matrix = judging.confusion(outcome.logits.argmax(1), outcome.labels, len(classes))
            pictures.confusion_matrix(matrix, classes, folder / "confusion_matrix.svg")
        if epochs:
            probe = outcome.details.get("probe", {}).get("accuracy")
            what = "accuracy" if outcome.answers is None else "agreement"
            pictures.learning_curves(outcome.history.epochs, probe, folder / "learning_curves.svg", what=what)
    except Exception as error:  # noqa: BLE001 - of a library that draws: no reason to lose a training
        log.warning("no pictures of the training: %s", error)
    if tensorboard:
        _events(folder / "tensorboard", epochs)
    trial = {"precision_trial": outcome.history.trial} if outcome.history.trial else {}
    return {**metrics, **trial, "epochs": epochs}


def _renamed(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in record.items()}


def _events(folder: Path, epochs: Sequence[dict[str, float]]) -> None:
    registry.require("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        for step, record in enumerate(epochs, 1):
            for name, value in record.items():
                if name != "epoch":
                    writer.add_scalar(name, value, step)
