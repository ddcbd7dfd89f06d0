"""From decoded images to a network's input on its device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from tlopt.environment import cores
from tlopt.images import ordered
from tlopt.images.pixels import Pixels
from tlopt.nn import augment
from tlopt.nn.hyperparameters import Hyperparameters
from tlopt.preprocess import Preprocess
from tlopt.progress import track

_WORKERS = 8  # more threads than this only fill the memory with batches


def to_inputs(crops: np.ndarray, preprocess: Preprocess, device: torch.device) -> torch.Tensor:
    """Return crops as the network's input.

    Args:
        crops: uint8 (n, size, size, 3), RGB.
        preprocess: Gives mean, std and order of the channels.
        device: Where the network is.

    Returns:
        float32 (n, 3, size, size), channels last in memory.
    """
    scale, shift = (torch.from_numpy(values).to(device)[:, None, None] for values in preprocess.affine())
    pixels = torch.from_numpy(crops)
    if device.type == "cuda":
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    # The permuted view of (n, h, w, 3) is laid out channels last: nothing is copied.
    planes = pixels.permute(0, 3, 1, 2)
    if preprocess.channels == "bgr":
        planes = planes.flip(1)
    inputs = planes.to(torch.float32, memory_format=torch.channels_last)
    return inputs.mul_(scale).add_(shift)


def training_batches(
    pixels: Pixels,
    settings: Hyperparameters,
    *,
    epoch: int,
    first: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield an epoch's random crops, made by threads ahead of need.

    The order and every crop follow from the seed, the epoch and the step alone. Images left over
    after the last full batch sit the epoch out.

    Args:
        pixels: Filled.
        settings: Batch, seed and augmentation.
        epoch: Counted from 0.
        first: Steps to pass over.
        rank: This process's number; it gets its own part of each batch.
        world: Number of processes.

    Yields:
        Crops, uint8 (batch / world, size, size, 3), and labels, int64 (batch / world,).
    """
    batch = batch_size(len(pixels), settings, world)
    steps = len(pixels) // batch
    chance = np.random.default_rng([settings.seed, epoch])
    order = chance.permutation(len(pixels))[: steps * batch].reshape(steps, batch)
    seeds = chance.integers(2**63, size=order.shape)
    own = slice(rank * batch // world, (rank + 1) * batch // world)
    labels = pixels.labels

    def make(step: int) -> tuple[np.ndarray, np.ndarray]:
        indices = order[step, own]
        views = [
            augment.view(pixels.image(i), pixels.preprocess, settings, seed)
            for i, seed in zip(indices.tolist(), seeds[step, own].tolist(), strict=True)
        ]
        return np.stack(views), labels[indices]

    return ordered(make, range(first, steps), workers=min(cores(), _WORKERS))


def batch_size(images: int, settings: Hyperparameters, world: int = 1) -> int:
    """Return the images per step: the settings' batch, or less for a set smaller than one batch."""
    return max(world, min(settings.batch, images) // world * world)


def predict(
    model: nn.Module, pixels: Pixels, *, device: torch.device, batch: int = 64, label: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Return a network's answers to the central crops of filled images, and their labels.

    Returns:
        Logits, float32 (n, classes), and labels, int64 (n,).
    """
    was_training = model.training
    model.eval()
    starts = range(0, len(pixels), batch)

    def crops(start: int) -> np.ndarray:
        return np.stack([pixels.crop(i) for i in range(start, min(start + batch, len(pixels)))])

    logits = []
    batches = ordered(crops, starts, workers=min(cores(), _WORKERS))
    with torch.inference_mode():
        for chunk in track(batches, label=label, total=len(starts)) if label else batches:
            logits.append(model(to_inputs(chunk, pixels.preprocess, device)).float().cpu().numpy())
    model.train(was_training)
    return np.concatenate(logits), pixels.labels
