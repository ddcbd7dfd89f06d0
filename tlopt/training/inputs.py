"""From decoded images to a network's input on its device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tlopt.environment import cores
from tlopt.images import ordered
from tlopt.images.pixels import Pixels
from tlopt.networks import folding
from tlopt.preprocess import Preprocess
from tlopt.progress import track
from tlopt.training import distributed, joining, memory
from tlopt.training.augmentation import crops
from tlopt.training.hyperparameters import BATCH, FEW, SMALL_BATCH, Hyperparameters
from tlopt.training.optimization.losses import divergence

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
    beside: Pixels | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield an epoch's random crops, made by threads ahead of need.

    The order and every crop follow from the seed, the epoch and the step alone, whether the images are
    decoded already or on the way. Images left over after the last full batch sit the epoch out; the
    next readable image stands in for one that cannot be read.

    Args:
        pixels: The images.
        settings: Batch, seed and augmentation.
        epoch: Counted from 0.
        first: Steps to pass over.
        rank: This process's number; it gets its own part of each batch.
        world: Number of processes.
        beside: Images with answers in place of labels, all readable, which are mixed in as `joining.joined` says.

    Yields:
        Crops, uint8 (batch / world, size, size, 3), and what to answer, float32 (batch / world, classes).
    """
    count, classes = len(pixels.folder), len(pixels.folder.classes)
    images = joining.length(pixels.folder.labels, beside)
    batch = batch_size(images, settings, world)
    steps = images // batch
    chance = np.random.default_rng([settings.seed, epoch])
    order = chance.permutation(images)
    if beside is not None:
        order = joining.joined(pixels.folder.labels, beside, chance)[order]
    order = order[: steps * batch].reshape(steps, batch)
    seeds = chance.integers(2**63, size=order.shape)
    own = slice(rank * batch // world, (rank + 1) * batch // world)

    def make(step: int) -> tuple[np.ndarray, np.ndarray]:
        views, targets = [], np.zeros((own.stop - own.start, classes), np.float32)
        for row, wanted, seed in zip(targets, order[step, own].tolist(), seeds[step, own].tolist(), strict=True):
            if beside is not None and wanted >= count:
                image, position = beside.readable(wanted - count)
                assert beside.answers is not None
                row[:] = beside.answers[position]
            else:
                image, position = pixels.readable(wanted)
                row[pixels.folder.labels[position]] = 1
            views.append(crops.view(image, pixels.preprocess, settings, seed))
        return np.stack(views), targets

    return ordered(make, range(first, steps), workers=min(cores(), _WORKERS))


def batch_size(images: int, settings: Hyperparameters, world: int = 1) -> int:
    """Return the images per step: the settings' batch, or less for a set smaller than one batch."""
    wanted = settings.batch or (SMALL_BATCH if images < FEW else BATCH)
    return max(world, min(wanted, images) // world * world)


@contextmanager
def answering(model: nn.Module, preprocess: Preprocess, device: torch.device) -> Iterator[None]:
    """Let a network in evaluation mode, on the device, answer as fast as it can: without gradients, norms folded.

    On a GPU they are not folded: that takes it longer than the norms themselves.
    """
    with ExitStack() as stack:
        stack.enter_context(memory.kept())
        if device.type == "cpu":
            example = torch.randn(2, 3, preprocess.size, preprocess.size, generator=torch.Generator().manual_seed(0))
            stack.enter_context(folding.folded(model, example))
        stack.enter_context(torch.inference_mode())
        yield


def predict(
    model: nn.Module, pixels: Pixels, *, device: torch.device, batch: int = 64, label: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Return a network's answers to the central crops of all readable images, and their labels.

    Returns:
        Logits, float32 (n, classes), and labels, int64 (n,).
    """
    was_training = model.training
    model.eval()
    logits, labels = [], []
    with answering(model, pixels.preprocess, device):
        for crops, truth in pixels.fill(batch=batch, label=label):
            whole = of_one_size(crops, batch, device)
            answers: np.ndarray = model(to_inputs(whole, pixels.preprocess, device)).float().cpu().numpy()
            logits.append(answers[: len(crops)])
            labels.append(truth)
    model.train(was_training)
    return np.concatenate(logits), np.concatenate(labels)


def of_one_size(images: np.ndarray, count: int, device: torch.device) -> np.ndarray:
    """Return images for a GPU with the last one repeated until they are `count`; those for a processor as they are.

    cuDNN makes kernels for each number of images.

    Args:
        images: (n, ...), of at least one.
        count: Images of a whole batch.
        device: Where the network is.
    """
    if device.type == "cpu" or len(images) >= count:
        return images
    return images[np.minimum(np.arange(count), len(images) - 1)]


def answer(model: nn.Module, pixels: Pixels, *, device: torch.device, label: str = "") -> None:
    """Give images without labels a network's own answers; the likeliest class stands for the label.

    Args:
        model: The network.
        pixels: The images, changed in place.
        device: Where the network is.
        label: Name of the progress bar.
    """
    logits, _ = predict(model, pixels, device=device, label=label)
    found = np.zeros((len(pixels.folder), logits.shape[1]), np.float32)
    found[pixels.kept] = functional.softmax(torch.from_numpy(logits), dim=1).numpy()
    pixels.folder = pixels.folder.labelled(found.argmax(1).astype(np.int64), pixels.folder.classes)
    pixels.answers = found


def judged(model: nn.Module, pixels: Pixels | None, *, device: torch.device) -> dict[str, float]:
    """Return a network's loss and accuracy on validation images for the record of an epoch; nothing without images.

    Of images without labels they are the divergence from their answers, and the agreement with them.
    """
    if pixels is None:
        return {}
    logits, labels = predict(model, pixels, device=device)
    if (answers := pixels.answered) is None:
        loss = float(functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
    else:
        loss = divergence(logits, answers)
    # Processes with batch-norm statistics of their own see other numbers, and must stop together.
    loss, accuracy = distributed.first(loss, float((logits.argmax(1) == labels).mean()))
    return {"val_loss": loss, "val_accuracy": accuracy}


def central_batches(pixels: Pixels, samples: int, seed: int, label: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield central crops and labels of some images, the same ones each time.

    Args:
        pixels: The images, decoded.
        samples: How many of them.
        seed: Of the choice.
        label: Name of the progress bar.
    """
    chosen = np.random.default_rng(seed).permutation(len(pixels))[:samples]
    chunks = np.array_split(chosen, max(1, len(chosen) // 32))
    for chunk in track(chunks, label=label, total=len(chunks)):
        crops = np.stack([pixels.crop(i) for i in chunk.tolist()])
        yield (
            to_inputs(crops, pixels.preprocess, torch.device("cpu")),
            torch.from_numpy(pixels.labels[chunk]),
        )
