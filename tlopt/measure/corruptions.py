"""Images as a worse camera, a worse lens or worse light would give them, and how right an artifact is on them.

After D. Hendrycks, T. Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", arXiv 1903.12261: some of their kinds, at three strengths, applied to the pixels that the network sees.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from tlopt.artifact import Artifact
from tlopt.backends import open_runner
from tlopt.backends._logits import check_logits
from tlopt.measure.answers.images import ImagePart
from tlopt.measure.candidates import running
from tlopt.progress import bar

STRENGTHS = 3
_SEED = 0

Corruption = Callable[[np.ndarray, int, int], np.ndarray]  # pixels of an image, strength 1..3, number of the image


def _blur(pixels: np.ndarray, strength: int, _: int) -> np.ndarray:
    radius = (0.8, 1.6, 3.2)[strength - 1] * len(pixels) / 224
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _noise(pixels: np.ndarray, strength: int, number: int) -> np.ndarray:
    noise = np.random.default_rng((_SEED, number)).standard_normal(pixels.shape)
    return _whole(pixels + (10, 20, 40)[strength - 1] * noise)


def _jpeg(pixels: np.ndarray, strength: int, _: int) -> np.ndarray:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=(30, 15, 7)[strength - 1])
    with Image.open(target) as image:
        return np.asarray(image.convert("RGB"))


def _brighter(pixels: np.ndarray, strength: int, _: int) -> np.ndarray:
    return _whole(pixels * 2.0 ** (0.5, 1.0, 1.5)[strength - 1])


def _darker(pixels: np.ndarray, strength: int, _: int) -> np.ndarray:
    return _whole(pixels * 2.0 ** -(0.75, 1.5, 2.25)[strength - 1])


def _contrast(pixels: np.ndarray, strength: int, _: int) -> np.ndarray:
    mean = pixels.mean()
    return _whole(mean + (0.6, 0.4, 0.2)[strength - 1] * (pixels - mean))


def _whole(pixels: np.ndarray) -> np.ndarray:
    whole: np.ndarray = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
    return whole


CORRUPTIONS: Mapping[str, Corruption] = {
    "blur": _blur, "noise": _noise, "jpeg": _jpeg, "brighter": _brighter, "darker": _darker, "contrast": _contrast,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """How right an artifact is on images of one corruption.

    Args:
        corruption: Its name.
        accuracies: Share of right answers at each strength, weakest first.
    """

    corruption: str
    accuracies: tuple[float, ...]


def on_corrupted(
    artifact: Artifact, opened: ImagePart, *, backend: str = "", batch: int = 32, threads: int = 0
) -> tuple[Corrupted, ...]:
    """Measure an artifact on its images as each corruption leaves them.

    Args:
        artifact: What to measure.
        opened: The images; they are decoded once and kept as far as the memory for them goes.
        backend: ``name`` or ``name:device``; empty for the kind's own.
        batch: Most images per run.
        threads: Processor threads; 0 for one per core.
    """
    preprocess = artifact.card.preprocess
    order = np.array([artifact.card.classes.index(name) for name in opened.folder.classes], dtype=np.int64)
    right = np.zeros((len(CORRUPTIONS), STRENGTHS), np.int64)
    images = 0
    show = bar(f"{artifact.name}, corrupted", len(opened))
    with open_runner(artifact, backend, threads=threads) as runner, show as shown, running(artifact, runner.name):
        for chunk in opened.batches(replace(preprocess, folded=True), batch=batch, keep=True):
            truth = order[chunk.labels]
            for kind, corrupt in enumerate(CORRUPTIONS.values()):
                for strength in range(1, STRENGTHS + 1):
                    pixels = np.stack([corrupt(one, strength, images + i) for i, one in enumerate(chunk.inputs)])
                    logits = check_logits(runner(preprocess.normalize(pixels)), artifact, runner.name)
                    right[kind, strength - 1] += int((logits.argmax(1) == truth).sum())
            images += len(chunk.files)
            shown.advance(len(chunk.files))
    return tuple(
        Corrupted(corruption=name, accuracies=tuple((hits / max(1, images)).tolist()))
        for name, hits in zip(CORRUPTIONS, right, strict=True)
    )
