"""Which learning rate to fine-tune with."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

from tlopt.environment import cores, processor, versions, waiting
from tlopt.errors import SettingError, wrapping
from tlopt.images import intrusion, scan
from tlopt.images.cache import Cache
from tlopt.images.opening import open_pixels
from tlopt.images.parts import Shares
from tlopt.images.pixels import LARGE
from tlopt.publishing import PICTURE
from tlopt.reports import Report
from tlopt.settings import MOST_REPEATS, Only, Setting, Without, flat, ruled
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.network import Pretrained, pretrained, refuse_unknown

_TRAINING = Hyperparameters(epochs=1)


@flat
@ruled(refuse_unknown)
def find_lr(
    source: str | Path,
    *,
    start: Annotated[Pretrained, Without("dropout", "drop_path")],
    plot: Annotated[
        Path | None, Setting("SVG file to write, with the loss over the learning rate.", output=PICTURE)
    ] = None,
    lowest: Annotated[float, Setting("Learning rate of the first step.", minimum=1e-9)] = 1e-6,
    highest: Annotated[float, Setting("Learning rate of the last step.", minimum=1e-9)] = 1.0,
    steps: Annotated[int, Setting("Number of training steps.", minimum=10, maximum=MOST_REPEATS)] = 60,
    training: Annotated[Hyperparameters, Only("batch", "optimizer", "backbone_lr", "seed")] = _TRAINING,
    shares: Shares,
    cache: Cache,
) -> Report:
    """Find a learning rate for fine-tuning.

    A fresh classifier is trained while the learning rate rises. A tenth of the rate with the lowest
    loss is suggested (arXiv 1506.01186). Images and settings are those of finetune with --method
    full.

    Raises:
        SettingError: A setting does not fit.
        ImagesError: The folder of images cannot be used.
    """
    if lowest >= highest:
        raise SettingError(
            f"The lowest rate must be below the highest, got {lowest:g} and {highest:g}.",
            hint="Give a --lowest below --highest.",
        )
    folder = scan(source)
    if plot is not None:
        intrusion.check_file(plot, makes=PICTURE, reads=folder.places())
    images = folder.split(val=shares.val, test=shares.test, seed=training.seed)["train"]
    with wrapping("find-lr"):
        import torch

        from tlopt.training.inputs import batch_size
        from tlopt.training.outcome.pictures import range_test_curve
        from tlopt.training.range_test import range_test

        network = pretrained(start, classes=len(folder.classes), seed=training.seed)
        pixels = open_pixels(images, network.preprocess, cache=cache.folder, cache_gb=cache.cache_gb)
        with contextlib.closing(pixels), torch.random.fork_rng(devices=[]):
            if len(images) <= LARGE:
                pixels.filled(label="Decoding images")
            found = range_test(network.module, pixels, training, lowest=lowest, highest=highest, steps=steps)
        if plot is not None:
            range_test_curve(found.lr, found.loss, found.suggested, plot)
    return Report(
        title="Learning rate",
        rows=({"suggested_lr": found.suggested, "lowest_loss": float(found.loss.min()), "steps": len(found.loss)},),
        conditions={
            "device": processor(),
            "cores": cores(),
            "openmp": waiting(),
            "versions": versions(),
            "model": start.model,
            "batch": batch_size(len(images), training),
        },
        details={
            "curve": [{"lr": float(r), "loss": float(v)} for r, v in zip(found.lr, found.loss, strict=True)],
        },
    )
