"""Networks that are hard to quantize, trained from random weights on a folder of images, for hard_int8.py.

    python benchmarks/hard_networks.py --images ../shared/data/clothing10 --work runs/benchmark-hard

No pretrained weights of them can be had without a hub. So each starts from random weights, and learns from the labels
and from a fine-tuned EfficientNet-Lite0. What is kept in the work folder is not trained again. 150 epochs are
minutes of a GPU, and hours of a processor with two cores. The networks are trained at the same time, each by a process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tlopt
from tlopt.artifact import Artifact

TEACHER, TEACHER_SIZE = "pip:efficientnet_lite0", 128
SIZE = 96  # pixels
BATCH, LR, EPOCHS = 32, 1e-3, 150  # small batches: from random weights the number of steps counts


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and what makes it hard."""

    model: str
    hard: str


NETWORKS = {
    "efficientnet_b0": Network(model="timm:efficientnet_b0", hard="SiLU, squeeze-excitation"),
    "efficientnet_b2": Network(model="timm:efficientnet_b2", hard="SiLU, squeeze-excitation, deeper and wider"),
    "mobilenetv3_large": Network(model="timm:mobilenetv3_large_100", hard="hard-swish, squeeze-excitation"),
    "convnext_atto": Network(model="timm:convnext_atto", hard="LayerNorm, GELU"),
    "regnety_002": Network(model="timm:regnety_002", hard="group convolution, squeeze-excitation"),
    "repvgg_a0": Network(model="timm:repvgg_a0", hard="branches merged to one convolution"),
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
        step = found.card.lineage[-1].settings
        if (step["epochs"], found.card.preprocess.size) != (EPOCHS, SIZE):
            sys.exit(f"{folder} holds a network that was trained otherwise. Give another --work.")
        return found
    return tlopt.finetune(
        images,
        folder / "trained",
        model=network.model,
        weights=random_weights(network.model, images, folder / "random.safetensors"),
        image_size=SIZE,
        teacher=teacher(images, work).path,
        method="full",
        epochs=EPOCHS,
        batch=BATCH,
        lr=LR,
        backbone_lr=1.0,
        layer_decay=1.0,
        mixup=0.2,
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


def main() -> None:
    """Train what is not there yet: the teacher first, then the networks, all at the same time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of classes, with parts")
    parser.add_argument("--work", type=Path, required=True, help="folder of the networks")
    parser.add_argument("--networks", default=",".join(NETWORKS), help=f"some of {', '.join(NETWORKS)}")
    given = parser.parse_args()
    names = given.networks.split(",")
    if len(names) == 1:
        trained(names[0], given.images, given.work)
        return
    teacher(given.images, given.work)
    command = [sys.executable, __file__, "--images", str(given.images), "--work", str(given.work), "--networks"]
    running = [subprocess.Popen([*command, name]) for name in names]
    ended = [process.wait() for process in running]
    sys.exit(1 if any(ended) else 0)


if __name__ == "__main__":
    main()
