"""What a network is worth after a short training, to choose between networks that will be trained for longer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from tlopt.images.opening import open_pixels
from tlopt.images.pixels import Pixels
from tlopt.training import distributed
from tlopt.training.hyperparameters import BATCH, Hyperparameters
from tlopt.training.inputs import batch_size, predict
from tlopt.training.loop import train
from tlopt.training.methods import probe
from tlopt.training.optimization import losses

STEPS = 40
_JUDGED = 1000  # validation images, at most


@contextlib.contextmanager
def few(parts: tuple[Pixels, Pixels], settings: Hyperparameters) -> Iterator[tuple[Pixels, Pixels]]:
    """Open as many training and validation images as a short training and its judgement take.

    Args:
        parts: Decoded training and validation images.
        settings: Batch and seed.
    """
    most = (STEPS * (settings.batch or BATCH), _JUDGED)
    with contextlib.ExitStack() as stack:
        opened = []
        for part, count in zip(parts, most, strict=True):
            positions = probe.chosen(part.folder.labels, count, seed=settings.seed)
            if positions is None:
                opened.append(part)
                continue
            # Not through the cache: of a large set only a part is decoded, for which others would have to go.
            some = open_pixels(part.folder.select(positions), part.preprocess, cache_gb=0)
            opened.append(stack.enter_context(contextlib.closing(some)).filled())
        yield opened[0], opened[1]


def loss_after(
    model: nn.Module, parts: tuple[Pixels, Pixels], settings: Hyperparameters, teacher: nn.Module, *, trained: bool
) -> float:
    """Train a network shortly, in place, and return its loss on the validation images.

    Args:
        model: The network.
        parts: Decoded training and validation images.
        settings: Of the training that may follow; its epochs do not count here.
        teacher: What its answers are compared with, too.
        trained: Whether it is trained at all.
    """
    images, val = parts
    if trained:
        steps = max(1, len(images.folder) // batch_size(len(images.folder), settings))
        # In one precision, so that the clock does not decide.
        short = replace(settings, epochs=math.ceil(STEPS / steps), precision="fp32")
        train(model, images, None, short, teacher=teacher, label="Short training")
    device = distributed.device()
    logits, labels = predict(model.to(device), val, device=device)
    answers, _ = predict(teacher.to(device), val, device=device)
    teacher.to("cpu")
    ours, theirs = torch.from_numpy(logits), torch.from_numpy(answers)
    loss = functional.cross_entropy(ours, torch.from_numpy(labels))
    distance = losses.distillation(ours, theirs, temperature=settings.teacher_temperature)
    weight = settings.teacher_weight
    return float((1 - weight) * loss + weight * distance)
