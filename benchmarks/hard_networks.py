"""Networks that are hard to quantize, trained from random weights on a folder of images, for hard_int8.py.

No pretrained weights of them can be had without a hub. So each starts from random weights, and learns from the labels
and from a fine-tuned EfficientNet-Lite0. What is kept in the work folder is not trained again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tlopt
from tlopt.artifact import Artifact

TEACHER, TEACHER_SIZE = "pip:efficientnet_lite0", 96
SIZE = 64  # pixels: five networks are trained in ten minutes of one core
BATCH, LR = 16, 2e-3  # small batches: from random weights the number of steps counts


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, what makes it hard, and how long it is trained."""

    model: str
    hard: str
    epochs: int


NETWORKS = {
    "efficientnet_b0": Network(model="timm:efficientnet_b0", hard="SiLU, squeeze-excitation", epochs=6),
    "mobilenetv3_large": Network(model="timm:mobilenetv3_large_100", hard="hard-swish, squeeze-excitation", epochs=6),
    "convnext_atto": Network(model="timm:convnext_atto", hard="LayerNorm, GELU", epochs=6),
    "regnety_002": Network(model="timm:regnety_002", hard="group convolution, squeeze-excitation", epochs=6),
    "repvgg_a0": Network(model="timm:repvgg_a0", hard="branches merged to one convolution", epochs=5),
}  # fmt: skip


def kept(path: Path) -> Artifact | None:
    """Return what an earlier run with the same work folder made."""
    return Artifact.load(path) if path.exists() else None


def teacher(images: Path, work: Path) -> Artifact:
    """Fine-tune the network that the others learn from."""
    return kept(work / "teacher") or tlopt.finetune(images, work / "teacher", model=TEACHER, image_size=TEACHER_SIZE)


def trained(name: str, images: Path, work: Path) -> Artifact:
    """Train a network from random weights."""
    network, folder = NETWORKS[name], work / name
    folder.mkdir(parents=True, exist_ok=True)
    if found := kept(folder / "trained"):
        return found
    return tlopt.finetune(
        images,
        folder / "trained",
        model=network.model,
        weights=random_weights(network.model, images, folder / "random.safetensors"),
        image_size=SIZE,
        teacher=teacher(images, work).path,
        method="full",
        epochs=network.epochs,
        batch=BATCH,
        lr=LR,
        backbone_lr=1.0,
        layer_decay=1.0,
        frozen_norm=False,
        precision="fp32",
        resume=True,
        seed=0,
    )


def random_weights(model: str, images: Path, file: Path) -> Path:
    """Write the weights that a network starts with, of seed 0."""
    import torch
    from safetensors.torch import save_file

    from tlopt import sources
    from tlopt.images import scan

    torch.manual_seed(0)
    network = sources.build(model, classes=len(scan(images).classes), size=SIZE)
    save_file({key: tensor.clone().contiguous() for key, tensor in network.state_dict().items()}, file)
    return file
