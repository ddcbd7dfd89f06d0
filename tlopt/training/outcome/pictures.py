"""Pictures of a training run: learning curves, the confusion matrix, the range test."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlopt.publishing import write_whole
from tlopt.reading.names import drawn
from tlopt.reports.drawing import METADATA, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 30  # classes above which the matrix's axes are not labelled


def learning_curves(
    epochs: Sequence[dict[str, float]], probe_accuracy: float | None, file: Path, *, what: str = "accuracy"
) -> None:
    """Draw loss and validation accuracy, or whatever stands for it, by epoch into an SVG file."""
    with style(_SAME):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number in dict.fromkeys(record.get("training", 1) for record in epochs):
            one = [record for record in epochs if record.get("training", 1) == number]
            steps = [record["epoch"] for record in one]
            lines = ((left, "loss", "C0", "training"), (left, "val_loss", "C1", "validation"))
            for axes, key, color, name in (*lines, (right, "val_accuracy", "C1", "fine-tuned")):
                if key not in one[0]:  # trained on all images: none judges an epoch
                    continue
                label = name if one[0] is epochs[0] else None  # of several trainings alike, one is named
                axes.plot(steps, [record[key] for record in one], marker="o", color=color, label=label)
        left.set(xlabel="epoch", ylabel="loss")
        left.legend()
        if probe_accuracy is not None:
            right.axhline(probe_accuracy, color="0.5", linestyle="--", label="probe")
            right.legend()
        right.set(xlabel="epoch", ylabel=f"validation {what}")
        write_whole(file, _svg(figure), special=True)


def confusion_matrix(matrix: np.ndarray, classes: tuple[str, ...], file: Path) -> None:
    """Draw a confusion matrix (rows: true classes) into an SVG file."""
    with style(_SAME):
        from matplotlib.figure import Figure

        side = min(12.0, 3 + 0.4 * len(classes))
    with style(_SAME):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.subplots()
        shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
        shown = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        figure.colorbar(shown, label="share of the true class")
        axes.set(xlabel="predicted", ylabel="true")
        if len(classes) <= _NAMED:
            names = [drawn(name) for name in classes]
            axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
            axes.set_yticks(range(len(classes)), names)
            for (row, column), count in np.ndenumerate(matrix):
                if count:
                    color = "white" if shares[row, column] > 0.6 else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
        write_whole(file, _svg(figure), special=True)


def range_test_curve(lr: np.ndarray, loss: np.ndarray, suggested: float, file: Path) -> None:
    """Draw the smoothed loss against the learning rate into an SVG file."""
    with style(_SAME):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(lr, loss)
        axes.axvline(suggested, color="C1", linestyle="--", label=f"suggested: {suggested:g}")
        axes.set(xscale="log", xlabel="learning rate of the classifier", ylabel="training loss, smoothed")
        axes.legend()
        write_whole(file, _svg(figure), special=True)


_SAME = {"svg.hashsalt": "tlopt"}  # the same figure gives the same file


def _svg(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="svg", metadata=METADATA)
    return target.getvalue()
