"""A model of the user's own: ``--model package.module:function``.

The function takes the number of classes and returns an ``nn.Module`` that maps float32
(n, 3, size, size) to logits (n, classes). Its pretrained weights, if any, are those it loads itself
or those given with ``--weights``. A ``preprocess`` attribute on the module, a `Preprocess` or its
fields, says how images are fed; without one, ImageNet's statistics at 224 px are used.

Whoever calls `build` has asked `tlopt.trusted.allow` before.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from tlopt import trusted
from tlopt.errors import PluginError, suggestion
from tlopt.networks import head
from tlopt.preprocess import Preprocess
from tlopt.reading.names import shown_name


def names() -> tuple[str, ...]:
    """Return nothing: the user's own modules cannot be listed."""
    return ()


def build(name: str, *, classes: int, **options: Any) -> nn.Module:
    """Return what the function makes.

    Raises:
        PluginError: The module or the function does not exist, or returns something else.
    """
    module_name, _, function_name = name.partition(":")
    with trusted.importable(module_name):
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise PluginError(
                f"The module {shown_name(module_name)} of the model {shown_name(name)!r} cannot be imported: {error}",
                hint="Install it, or run from the folder that holds it.",
            ) from error
        function = getattr(module, function_name, None)
        if not callable(function):
            raise PluginError(
                f"{module_name} has no function {shown_name(function_name)!r}.",
                hint=suggestion(function_name, dir(module)),
            )
        model = function(classes, **options)
    if not isinstance(model, nn.Module):
        raise PluginError(f"{name} must return a torch.nn.Module, got {type(model).__name__}.")
    return model


def load(name: str, *, classes: int, **options: Any) -> tuple[nn.Module, Preprocess]:
    """Return the model as the function makes it, and its preprocessing."""
    if not classes:
        raise PluginError(f"{name} needs the number of classes.", hint="Give the class names with --classes FILE.")
    model = build(name, classes=classes, **options)
    return model, preprocess(name, model)


def preprocess(name: str, model: nn.Module) -> Preprocess:  # noqa: ARG001 - part of a source's contract
    """Return the model's own preprocessing, or ImageNet's at 224 px."""
    own = getattr(model, "preprocess", None)
    if isinstance(own, Preprocess):
        return own
    return Preprocess.from_dict({**Preprocess(size=224).to_dict(), **(own or {})})


def replace_head(model: nn.Module, classes: int) -> None:
    """Put a new, untrained classifier in place of the model's own."""
    head.replace(model, classes)
