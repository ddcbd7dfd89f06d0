"""What a training run leaves beside the weights: metrics by epoch, pictures, TensorBoard events."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlopt import judging, registry
from tlopt.training.methods.transfer import Transfer
from tlopt.training.outcome import pictures
from tlopt.training.outcome.metrics import summary

log = logging.getLogger(__name__)

_TIMES = ("seconds", "images_per_s")


def write(folder: Path, outcome: Transfer, classes: tuple[str, ...], *, tensorboard: bool = False) -> dict[str, Any]:
    """Write a run's records into a folder, and return the metrics for the card.

    Makes ``metrics.jsonl`` (one line per epoch, then one with the validation metrics of the weights that
    were kept), ``confusion_matrix.svg`` (of the validation images) and, if anything was trained step
    by step, ``learning_curves.svg``.

    Args:
        folder: Where the files go.
        outcome: Of the run.
        classes: Class names.
        tensorboard: Also write TensorBoard events into ``tensorboard/``.

    Raises:
        MissingLibraryError: TensorBoard is not installed.
    """
    metrics = {"validation": summary(outcome.logits, outcome.labels, classes), **outcome.details}
    epochs = outcome.history.epochs
    # Times are no part of the payload: the same run twice makes the same artifact.
    lines = [{name: value for name, value in record.items() if name not in _TIMES} for record in epochs]
    text = "".join(json.dumps(line) + "\n" for line in [*lines, metrics])
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    matrix = judging.confusion(outcome.logits.argmax(1), outcome.labels, len(classes))
    try:
        pictures.confusion_matrix(matrix, classes, folder / "confusion_matrix.svg")
        if epochs:
            probe = outcome.details.get("probe", {}).get("accuracy")
            pictures.learning_curves(epochs, probe, folder / "learning_curves.svg")
    except Exception as error:  # noqa: BLE001 - of a library that draws: no reason to lose a training
        log.warning("no pictures of the training: %s", error)
    if tensorboard:
        _events(folder / "tensorboard", epochs)
    trial = {"precision_trial": outcome.history.trial} if outcome.history.trial else {}
    return {**metrics, **trial, "epochs": epochs}


def _events(folder: Path, epochs: Sequence[dict[str, float]]) -> None:
    registry.require("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        for step, record in enumerate(epochs, 1):
            for name, value in record.items():
                if name != "epoch":
                    writer.add_scalar(name, value, step)
