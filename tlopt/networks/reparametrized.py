"""Weights that are computed from others: old forms brought to those that torch can copy, and plain weights made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook
from torch.nn.utils.weight_norm import WeightNorm

# What the old forms call their tensors, and what the new ones call them: {} is the name of the normalized tensor.
_NAMES = {
    "_g": ("parametrizations.{}.original0",),
    "_v": ("parametrizations.{}.original1", "parametrizations.{}.0._v"),
    "_u": ("parametrizations.{}.0._u",),
    "_orig": ("parametrizations.{}.original",),
}
_OLD_HOOKS = (SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook)


def renew(model: nn.Module) -> nn.Module:
    """Bring old `weight_norm` and `spectral_norm` to their forms in `torch.nn.utils.parametrizations`, in place.

    The old forms keep the normalized weight as the result of a computation, which torch refuses to copy. The network
    computes the same afterwards.
    """
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
                parametrizations.weight_norm(module, hook.name, hook.dim)
            elif isinstance(hook, SpectralNorm):
                _renew_spectral(module, hook)
    return model


def folded(model: nn.Module) -> nn.Module:
    """Make plain weights of those that are computed from others at each call, in place.

    The network computes the same afterwards, and its weights can be cut.
    """
    return folded_as(model, None)


def folded_as(model: nn.Module, state: Iterable[str] | None) -> nn.Module:
    """Make plain weights, in place, where saved weights have them: they are of a network that was folded.

    Args:
        model: A network as its architecture is built.
        state: The names of the saved weights; None for plain weights everywhere.
    """
    names = None if state is None else set(state)
    for prefix, module in model.named_modules():
        for name in [*module.parametrizations] if parametrize.is_parametrized(module) else ():
            if names is None or f"{prefix}.{name}".removeprefix(".") in names:
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model


def renamed(state: Mapping[str, torch.Tensor], own: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return saved weights with the names of the new forms in place of the old ones.

    Args:
        state: Saved weights.
        own: The names that the network has.
    """
    names = set(own)
    return {key if key in names else _new_name(key, names): tensor for key, tensor in state.items()}


def _new_name(key: str, names: set[str]) -> str:
    layer, dot, tensor = key.rpartition(".")
    for ending, forms in _NAMES.items():
        if tensor.endswith(ending):
            found = [layer + dot + form.format(tensor.removesuffix(ending)) for form in forms]
            return next((name for name in found if name in names), key)
    return key


def _renew_spectral(module: nn.Module, hook: SpectralNorm) -> None:
    name, own = hook.name, vars(module)["_buffers"]
    weight: Any = getattr(module, f"{name}_orig")
    vectors = [own[f"{name}_{end}"] for end in ("u", "v")]
    raw = weight.detach().clone()
    remove_spectral_norm(module, name)
    # torch 2.13 leaves the hook that reads saved weights: it looks for it without the wrapper that holds it.
    hooks: dict[int, Any]
    for hooks in (module._load_state_dict_pre_hooks, module._state_dict_hooks):
        for key in [key for key, held in hooks.items() if isinstance(getattr(held, "hook", held), _OLD_HOOKS)]:
            del hooks[key]
    plain: Any = getattr(module, name)
    plain.data = raw
    # A random start, which the network's own vectors replace.
    with torch.random.fork_rng(devices=[]):
        parametrizations.spectral_norm(module, name, hook.n_power_iterations, hook.eps, hook.dim)
    new: Any = module.get_submodule(f"parametrizations.{name}.0")
    with torch.no_grad():
        for buffer, vector in zip((new._u, new._v), vectors, strict=True):
            buffer.copy_(vector)
