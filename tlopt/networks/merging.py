"""A network as it is exported: branches that only training needs are merged, batch norms are folded.

Both change no answer but by rounding. The exporter then has half as many operators to follow, which halves
its time.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tlopt.networks import folding

log = logging.getLogger(__name__)

_TOLERANCE = 1e-3  # of the largest answer: far above rounding, far below a wrong merge
_BRANCHED = ("fuse", "reparameterize", "switch_to_deploy")  # timm's names of the methods that merge branches


def merged(model: nn.Module, size: int) -> nn.Module:
    """Return a copy that computes the same with fewer layers; what cannot be merged stays.

    Args:
        model: In evaluation mode, on the processor.
        size: Side of the square input, pixels.
    """
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    if _branched(model):
        model = _kept_if_equal(model, images, "branches", _merge_branches)
    made = _kept_if_equal(model, images, "batch norms", _fold_norms)
    if made is not model:
        _overwrite_nothing(made, images)
    return made


def _overwrite_nothing(model: nn.Module, images: torch.Tensor) -> None:
    """Let activation functions make a new tensor instead of overwriting their input, if the answers stay the same.

    torch.export takes each of those that overwrite apart, one by one, which takes much of the time of an export. Where
    something else reads the overwritten tensor later, as a skip connection may, the overwriting is part of the network.
    """
    found = [module for module in model.modules() if getattr(module, "inplace", None) is True]
    with torch.no_grad():
        before = model(images)
        _set_inplace(found, overwrite=False)
        if not torch.equal(before, model(images)):
            _set_inplace(found, overwrite=True)


def _set_inplace(modules: Iterable[nn.Module], *, overwrite: bool) -> None:
    for module in modules:
        module.inplace = overwrite  # type: ignore[assignment]  # a setting of activation functions


def _branched(model: nn.Module) -> int:
    """Return how many modules know how to merge their branches."""
    return sum(any(hasattr(module, name) for name in _BRANCHED) for module in model.modules())


def _kept_if_equal(
    model: nn.Module, images: torch.Tensor, what: str, merge: Callable[[nn.Module, torch.Tensor], int]
) -> nn.Module:
    with torch.no_grad():
        candidate = copy.deepcopy(model).eval()
        before = candidate(images)
        try:
            count = merge(candidate, images)
            after = candidate(images) if count else before
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, KeyError) as error:
            log.warning("The %s of %s stay as they are: %s", what, type(model).__name__, error)
            return model
        if not torch.allclose(before, after, rtol=0, atol=_TOLERANCE * float(before.abs().max())):
            log.warning("The %s of %s stay as they are: merged, they answer otherwise.", what, type(model).__name__)
            return model
    log.info("%d %s merged", count, what)
    return candidate if count else model


def _merge_branches(model: nn.Module, _: torch.Tensor) -> int:
    """Merge what RepVGG, MobileOne, FastViT, RepViT and their like compute in branches, in place."""
    from tlopt.networks import vision_ops

    vision_ops.declare()
    from timm.utils.model import reparameterize_model

    branched = _branched(model)
    reparameterize_model(model, inplace=True)
    return branched


def _fold_norms(model: nn.Module, images: torch.Tensor) -> int:
    """Fold batch norms into the convolutions that feed them alone, in place."""
    names = {module: name for name, module in model.named_modules()}
    pairs = folding.fed(model, images)
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(conv, norm)
        rest = folding.after_norm(norm)
        assert rest is not None
        conv.weight, conv.bias = fused.weight, fused.bias
        parent, _, attribute = names[norm].rpartition(".")
        setattr(model.get_submodule(parent), attribute, rest)
    return len(pairs)
