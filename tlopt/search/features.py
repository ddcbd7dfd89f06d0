"""How well a network may do on some images, told without training it: a regression on its frozen features."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlopt.errors import ArtifactError, ImagesError, wrapping
from tlopt.images import ImageFolder
from tlopt.images.cache import Cache
from tlopt.images.opening import open_pixels
from tlopt.images.parts import Shares
from tlopt.measure.statistics import wilson
from tlopt.preprocess import Preprocess
from tlopt.search.networks import Network

if TYPE_CHECKING:
    from torch import nn

MOST = 4000  # images that are looked at; more narrow the interval to less than a point


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a regression on frozen features gets right, each image judged by one that was fitted to others.

    Of a network that was trained on the images before, it is what its own classifier gets right of those held out then.

    Args:
        accuracy: Share of right answers.
        interval: Its 95 % interval, by Wilson's score.
        loss: Mean cross-entropy.
        images: Number of images.
        folds: Parts that were left out in turn; 0 if the network's own classifier answered.
        penalty: The L2 penalty that was chosen; 0 of the network's own classifier.
        seconds: What it cost.
    """

    accuracy: float
    interval: tuple[float, float]
    loss: float
    images: int
    folds: int
    penalty: float
    seconds: float = 0.0


def seen(folder: ImageFolder, shares: Shares, seed: int) -> ImageFolder:
    """Return the images for training and validation: a choice may depend on these, never on those of the test.

    Raises:
        SettingError: The shares leave nothing for training.
    """
    test = set(folder.split(val=shares.val, test=shares.test, seed=seed)["test"].files)
    return folder.select([place for place, file in enumerate(folder.files) if file not in test])


def expect_pairs(folder: ImageFolder) -> None:
    """Refuse images by which no network can be judged: told before any work.

    Raises:
        ImagesError: A class has a single image, copies aside.
    """
    _, contents = np.unique(folder.hashes, return_inverse=True)
    pairs = np.unique(np.stack([folder.labels, contents]), axis=1)
    if np.bincount(pairs[0], minlength=len(folder.classes)).min() < 2:
        raise _too_few(folder, folder.labels, contents)


def frozen_accuracy(
    network: Network,
    size: int,
    folder: ImageFolder,
    *,
    whole: ImageFolder | None = None,
    cache_dir: Path | None = None,
    cache_gb: float = 20.0,
    seed: int = 0,
    most: int = MOST,
) -> Score:
    """Cross-validate a multinomial logistic regression on the frozen features of a network.

    Images that are copies of each other are judged by a regression that saw neither. The features of a network that
    was trained on the images before know their labels: its own classifier is judged on those held out then.

    Args:
        network: The network, by name or a torch artifact of the same input size.
        size: Side of the square input, pixels.
        folder: Labelled images, none of them of the test part.
        whole: The images with those of the test part; None if no network can have been trained on them.
        cache_dir: Folder that keeps decoded images and features; None for the usual one.
        cache_gb: Largest size of that folder, 10^9 bytes; 0 keeps nothing.
        seed: Of the folds, and of the choice of images.
        most: Images that are looked at, about; each class gives its share.

    Raises:
        ImagesError: A class has a single image, or too many images cannot be read.
        ArtifactError: The artifact is a graph, or takes images of another size, or was trained on all of these images.
        PluginError: The network cannot be opened here.
    """
    started = time.perf_counter()
    if whole is not None and (held_out := _held_out(network, folder, whole)) is not None:
        return _own_accuracy(network, size, held_out, Cache(cache_dir=cache_dir, cache_gb=cache_gb))
    with wrapping(f"looking at {network.label}"):
        from tlopt.networks import head
        from tlopt.training import distributed
        from tlopt.training.methods import probe
        from tlopt.training.methods.out_of_fold import out_of_fold

        module, preprocess = _opened(network, size, len(folder.classes))
        cache = Cache(cache_dir=cache_dir, cache_gb=cache_gb)
        chosen = probe.chosen(folder.labels, most, seed=seed)
        some = folder if chosen is None else folder.select(chosen)
        pixels = open_pixels(some, preprocess, cache=cache.folder, cache_gb=cache_gb)
        with contextlib.closing(pixels):
            found, labels = probe.features(
                module, pixels, device=distributed.device(), cache=cache.features,
                label=f"Features of {network.label} at {size} px",
            )  # fmt: skip
            contents = np.array([some.hashes[i] for i in pixels.filled().kept])
        _, numbers = np.unique(contents, return_inverse=True)
        answers = out_of_fold(
            found, labels, numbers, classes=len(folder.classes), seed=seed, bias=head.find(module).biased
        )
    if answers is None:
        raise _too_few(folder, labels, numbers)
    hits = int((answers.predicted == labels).sum())
    return Score(
        accuracy=hits / len(labels),
        interval=wilson(hits, len(labels)),
        loss=answers.loss,
        images=len(labels),
        folds=answers.folds,
        penalty=answers.penalty,
        seconds=time.perf_counter() - started,
    )


def _held_out(network: Network, folder: ImageFolder, whole: ImageFolder) -> ImageFolder | None:
    """Return the images that a network was not trained on; None if it was trained on none of them.

    Raises:
        ArtifactError: It was trained on all of them.
    """
    artifact = network.opened_artifact()
    ref = artifact.card.images if artifact is not None else None
    if ref is None or ref.digest != whole.digest:
        return None
    parts = whole.split(val=ref.val, test=ref.test, seed=ref.seed, whole=ref.folds > 0)
    unseen = set(parts["val"].files)
    found = folder.select([place for place, file in enumerate(folder.files) if file in unseen])
    if not len(found):
        raise ArtifactError(
            f"{network.label} was trained on all of these images, so they do not tell how well it does.",
            hint="Leave it out. tlopt evaluate judges it on test images.",
        )
    return found


def _own_accuracy(network: Network, size: int, held_out: ImageFolder, cache: Cache) -> Score:
    """Judge a network by its own classifier, on images that it was not trained on."""
    started = time.perf_counter()
    with wrapping(f"looking at {network.label}"):
        from tlopt.training import distributed
        from tlopt.training.inputs import predict
        from tlopt.training.outcome.temperature import calibrated_loss

        module, preprocess = _opened(network, size, len(held_out.classes))
        pixels = open_pixels(held_out, preprocess, cache=cache.folder, cache_gb=cache.cache_gb)
        with contextlib.closing(pixels):
            device = distributed.device()
            logits, labels = predict(module.to(device), pixels, device=device, label=f"Answers of {network.label}")
    hits = int((logits.argmax(1) == labels).sum())
    return Score(
        accuracy=hits / len(labels),
        interval=wilson(hits, len(labels)),
        loss=calibrated_loss(logits, labels),
        images=len(labels),
        folds=0,
        penalty=0.0,
        seconds=time.perf_counter() - started,
    )


def _opened(network: Network, size: int, classes: int) -> tuple[nn.Module, Preprocess]:
    """Return a network that answers for so many classes, and how images are fed to it."""
    import torch

    from tlopt import sources

    artifact = network.opened_artifact()
    if artifact is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return sources.load(network.name, classes=classes, size=size, weights_file=network.weights)
    card = artifact.expect("torch").card
    if card.preprocess.size != size:
        raise ArtifactError(
            f"{artifact.path} takes images of {card.preprocess.size} px, not of {size} px.",
            hint="An artifact keeps the size of its input.",
        )
    return sources.open_model(artifact), card.preprocess


def _too_few(folder: ImageFolder, labels: np.ndarray, contents: np.ndarray) -> ImagesError:
    """Return the error for a class of one image; `contents` is the same for copies, int64 (n,)."""
    counts = {int(label): len(np.unique(contents[labels == label])) for label in np.unique(labels)}
    return ImagesError(
        f"The class {folder.classes[min(counts, key=lambda label: counts[label])]} of {folder.source} has one image "
        "for training and validation, copies aside. Two are needed to judge a network.",
        hint="Add images to it, or remove the class.",
    )
