"""Which learning rate to fine-tune with."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

from tlopt import settings
from tlopt.environment import cores, processor, versions
from tlopt.errors import SettingError, wrapping
from tlopt.images import scan
from tlopt.images.pixels import LARGE, default_cache, open_pixels
from tlopt.reports import Report
from tlopt.settings import Setting
from tlopt.training.hyperparameters import Hyperparameters

_DEFAULT = Hyperparameters()


def find_lr(
    source: str | Path,
    *,
    model: Annotated[str, Setting("Pretrained network, source:name.")] = "pip:efficientnet_lite0",
    weights: Annotated[Path | None, Setting("Safetensors file that takes the place of the pretrained weights.")] = None,
    image_size: Annotated[
        int | None, Setting("Side of the input, pixels; by default the model's own.", minimum=16)
    ] = None,
    plot: Annotated[Path | None, Setting("SVG file to draw the loss against the learning rate into.")] = None,
    lowest: Annotated[float, Setting("First learning rate.", minimum=1e-9)] = 1e-6,
    highest: Annotated[float, Setting("Last learning rate.", minimum=1e-9)] = 1.0,
    steps: Annotated[int, Setting("Number of steps.", minimum=10)] = 60,
    batch: Annotated[int, Setting("Images per step.", minimum=1)] = _DEFAULT.batch,
    optimizer: Annotated[str, Setting("sgd, adamw, or any name that timm.optim knows.")] = _DEFAULT.optimizer,
    backbone_lr: Annotated[
        float, Setting("Learning rate of the last layers before the classifier, relative to the classifier's.")
    ] = _DEFAULT.backbone_lr,
    val: Annotated[float, Setting("Share of the images for validation.", minimum=0, maximum=0.9)] = 0.15,
    test: Annotated[float, Setting("Share of the images kept for the test.", minimum=0, maximum=0.9)] = 0.15,
    seed: Annotated[int, Setting("Seed of everything random.", minimum=0)] = 0,
    cache_dir: Annotated[Path | None, Setting("Folder for decoded images; by default ~/.cache/tlopt.")] = None,
    cache_gb: Annotated[float, Setting("Size this folder may have, GB; 0 keeps nothing.", minimum=0)] = 20.0,
) -> Report:
    """Find a learning rate: train from a fresh classifier while the rate rises, and watch the loss.

    Suggests a tenth of the rate at which the loss is lowest (range test, arXiv 1506.01186). Images and
    settings are those of finetune with ``--method full``.

    Raises:
        SettingError: A setting does not fit.
        ImagesError: The folder of images cannot be used.
    """
    settings.check(find_lr, {name: value for name, value in locals().items() if name != "source"})
    if lowest >= highest:
        raise SettingError(
            f"The rate rises from lowest to highest, got {lowest:g} and {highest:g}.",
            hint="Give a --lowest below --highest.",
        )
    folder = scan(source)
    images = folder.split(val=val, test=test, seed=seed)["train"]
    with wrapping("find-lr"):
        import torch

        from tlopt import sources
        from tlopt.training.outcome.pictures import range_test_curve
        from tlopt.training.range_test import range_test

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network, preprocess = sources.load(
                model, classes=len(folder.classes), size=image_size or 0, weights_file=weights
            )
            pixels = open_pixels(images, preprocess, cache=cache_dir or default_cache(), cache_gb=cache_gb)
            with contextlib.closing(pixels):
                if len(images) <= LARGE:
                    pixels.filled(label="Decoding images")
                hyperparameters = Hyperparameters(
                    batch=batch, optimizer=optimizer, backbone_lr=backbone_lr, seed=seed, epochs=1
                )
                found = range_test(network, pixels, hyperparameters, lowest=lowest, highest=highest, steps=steps)
        if plot is not None:
            range_test_curve(found.lr, found.loss, found.suggested, plot)
    return Report(
        title="Learning rate",
        rows=({"suggested_lr": found.suggested, "lowest_loss": float(found.loss.min()), "steps": len(found.loss)},),
        conditions={"device": processor(), "cores": cores(), "versions": versions(), "model": model, "batch": batch},
        details={
            "curve": [{"lr": float(r), "loss": float(v)} for r, v in zip(found.lr, found.loss, strict=True)],
        },
    )
