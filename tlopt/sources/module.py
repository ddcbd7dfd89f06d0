"""A model of the user's own: ``--model package.module:function``.

The function takes the number of classes and returns an ``nn.Module`` that maps float32
(n, 3, size, size) to logits (n, classes). Its pretrained weights, if any, are those it loads itself
or those given with ``--weights``. A ``preprocess`` attribute on the module, a `Preprocess` or its
fields, says how images are fed; without one, ImageNet's statistics at 224 px are used.

Whoever calls `build` has asked `tlopt.trusted.allow` before.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from operator import index
from types import ModuleType
from typing import Any

from torch import nn

from tlopt import trusted
from tlopt.errors import PluginError, SettingError, suggestion
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
        model = _function(module, function_name, classes, options)(classes, **options)
    if not isinstance(model, nn.Module):
        raise PluginError(f"{name} must return a torch.nn.Module, got {type(model).__name__}.")
    return model


def load(name: str, *, classes: int, **options: Any) -> tuple[nn.Module, Preprocess]:
    """Return the model as the function makes it, and its preprocessing."""
    if not classes:
        raise PluginError(f"{name} needs the number of classes.", hint="Give the class names with --classes FILE.")
    model = build(name, classes=classes, **options)
    return model, preprocess(name, model)


def preprocess(name: str, model: nn.Module) -> Preprocess:
    """Return the model's own preprocessing, or ImageNet's at 224 px.

    Raises:
        PluginError: Its own is none.
    """
    own = getattr(model, "preprocess", None)
    if isinstance(own, Preprocess):
        return own
    try:
        return Preprocess.from_dict({**Preprocess(size=224).to_dict(), **_fields({} if own is None else own)})
    except (TypeError, ValueError, SettingError) as error:
        raise PluginError(
            f"The attribute `preprocess` of the network {shown_name(name)} cannot be used: {error}",
            hint=f"It is a dictionary with some of the keys {', '.join(_KEYS)}.",
        ) from error


def replace_head(model: nn.Module, classes: int) -> None:
    """Put a new, untrained classifier in place of the model's own."""
    head.replace(model, classes)


def _function(module: ModuleType, name: str, classes: int, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a function of a module, which takes what it will be called with."""
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        # What the module only imports is no network of its own.
        package = module.__name__.partition(".")[0]
        own = [
            key
            for key, value in vars(module).items()
            if callable(value)
            and not key.startswith("_")
            and str(getattr(value, "__module__", "")).partition(".")[0] == package
        ]
        what = f"{module.__name__} has no function {shown_name(name)!r}."
        if hasattr(module, name):
            what = f"{shown_name(name)} of {module.__name__} is a {type(function).__name__}, not a function."
        raise PluginError(what, hint=suggestion(name, own))
    try:
        inspect.signature(function).bind(classes, **options)
    except ValueError:  # of a function in C it is not known what it takes
        return function
    except TypeError as error:
        given = ", ".join([str(classes), *(f"{key}={value!r}" for key, value in options.items())])
        raise PluginError(
            f"{module.__name__}:{name} cannot be called with ({shown_name(given)}): {error}.",
            hint="The function takes the number of classes, then its options by name, and returns a torch.nn.Module.",
        ) from error
    return function


_KEYS = tuple(field.name for field in fields(Preprocess))


def _fields(own: Any) -> dict[str, Any]:
    """Return the fields of a `Preprocess` as plain numbers and texts."""
    if not isinstance(own, Mapping):
        raise TypeError(f"it is of the type {type(own).__name__}.")
    found = {}
    for key, value in own.items():
        if key not in _KEYS:
            raise ValueError(f"the key {key!r} is unknown.")
        try:
            found[key] = _PLAIN[key](value) if key in _PLAIN else value
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{key}: {error}.") from error
    return found


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "size": index, "width": index, "crop_ratio": float, "mean": _numbers, "std": _numbers,
}  # fmt: skip
