"""Models of the torchvision library, with weights from its download cache."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator
from typing import Any

from torch import nn

from tlopt.errors import PluginError, suggestion
from tlopt.networks import head, vision_ops
from tlopt.preprocess import Preprocess

vision_ops.declare()
from torchvision import models  # noqa: E402 - after the declaration that its import needs

# torchvision changes these architectures where it loads their weights: their inputs are normalized anew. Their
# auxiliary classifiers are of no use to fine-tuning.
_OLDER = ("inception_v3", "googlenet")
_AS_TRAINED = {"transform_input": True, "aux_logits": False, "init_weights": False}


def names() -> tuple[str, ...]:
    """Return the names of torchvision's classifiers."""
    return tuple(models.list_models(module=models))


def build(name: str, *, classes: int, **options: Any) -> nn.Module:
    """Return the architecture with random weights."""
    given = {**(_AS_TRAINED if name in _OLDER else {}), **options}
    model: nn.Module = models.get_model(_known(name), weights=None, num_classes=classes, **given)
    return model


def load(name: str, *, classes: int, **options: Any) -> tuple[nn.Module, Preprocess]:
    """Return the model with its default pretrained weights and its preprocessing.

    Raises:
        PluginError: torchvision does not know the model, or its weights cannot be reached or hold more than tensors.
    """
    try:
        with _tensors_alone():
            model = models.get_model(_known(name), weights="DEFAULT", **options)
    except pickle.UnpicklingError as error:
        file = models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
        raise PluginError(
            f"The weights of torchvision:{name} cannot be read: {file} in torch.hub's cache is damaged or holds code.",
            hint=f"Delete {file} there: it is then downloaded again.",
        ) from error
    except (OSError, RuntimeError) as error:
        raise PluginError(
            f"The weights of torchvision:{name} cannot be reached: {error}",
            hint="Give a local file with --weights FILE.safetensors, or use a model whose weights come "
            "from pip, for example --model pip:efficientnet_lite0.",
        ) from error
    if name == "inception_v3":  # training takes the answers alone; torchvision refuses this as an option
        model.aux_logits, model.AuxLogits = False, None
    if classes:
        replace_head(model, classes)
    return model, preprocess(name, model)


def preprocess(name: str, model: nn.Module) -> Preprocess:  # noqa: ARG001 - part of a source's contract
    """Return the preprocessing that torchvision records for its default weights."""
    weights = models.get_model_weights(_known(name)).DEFAULT
    transform = weights.transforms()
    size, resize = transform.crop_size[0], transform.resize_size[0]
    return Preprocess(
        size=size,
        crop_ratio=size / resize,
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def replace_head(model: nn.Module, classes: int) -> None:
    """Put a new, untrained classifier in place of the model's own."""
    head.replace(model, classes)


@contextlib.contextmanager
def _tensors_alone() -> Iterator[None]:
    """Have torch unpickle nothing but tensors: torchvision's builders do not ask for it (as of 0.28)."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _known(name: str) -> str:
    if name not in names():
        raise PluginError(f"torchvision has no classifier {name!r}.", hint=suggestion(name, names()))
    return name
