"""Batch norms with frozen statistics, trained as part of the convolutions before them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

log = logging.getLogger(__name__)

_TOLERANCE = 1e-3  # of the largest answer: far above rounding, far below a wrong fold
Forward = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def folded(model: nn.Module, example: torch.Tensor) -> Iterator[int]:
    """Let batch norms in evaluation mode act through the weights of the convolutions that feed them.

    A batch norm with frozen statistics scales and shifts each channel by what does not depend on the
    images, so that conv(x, w) s + t = conv(x, w s) + t with s = weight / std, t = bias - mean s. Computed so in
    each forward pass, the gradients of the convolution's weight and of the norm's weight and bias
    are the same, but no activation is read, written or kept for the norm. For the length of the block;
    parameters, buffers and their names stay as they are. A norm in training mode works as ever.

    Args:
        model: The network. On the way out its modules are as before.
        example: Images, float32 (n, 3, size, size), on the network's device. The network's answers
            to them must stay the same, otherwise nothing is folded.

    Yields:
        The number of batch norms folded.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        yield 0
        return
    with _evaluating(model), torch.no_grad(), _in_full_fp32():
        pairs = fed(model, example)
        before = model(example)
        for conv, norm in pairs:
            _fold(conv, norm)
        after = model(example)
    try:
        if not torch.allclose(before, after, rtol=0, atol=_TOLERANCE * float(before.abs().max())):
            # The output of a convolution serves something else, too.
            _unfold(pairs)
            pairs = []
        log.info("%d batch norms folded", len(pairs))
        yield len(pairs)
    finally:
        _unfold(pairs)


@contextmanager
def _in_full_fp32() -> Iterator[None]:
    """Keep cuDNN from its default on Ampere and later, TF32: its rounding alone is near the tolerance."""
    cudnn: Any = torch.backends.cudnn
    with cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    ):
        yield


def fed(model: nn.Module, example: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return convolutions and the batch norms that are given their output as it is."""
    made: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}  # holds the tensors, so that no address comes twice
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = module, output

    def ahead(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        conv = made.get(id(inputs[0]), (None,))[0]
        if conv is not None and module.track_running_stats and module.affine:
            found.append((conv, module))

    hooks = [
        module.register_forward_hook(after)
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and "forward" not in vars(module) and not parametrize.is_parametrized(module)
    ] + [
        module.register_forward_pre_hook(ahead)
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d) and "forward" not in vars(module) and after_norm(module) is not None
    ]
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    convs, norms = ([id(pair[i]) for pair in found] for i in (0, 1))
    return [pair for pair in found if convs.count(id(pair[0])) == norms.count(id(pair[1])) == 1]


def after_norm(norm: nn.BatchNorm2d) -> nn.Module | None:
    """Return what a batch norm does besides normalizing; None if that is not known."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    # timm's norms bring dropout and the activation along.
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    if type(norm).__name__ == "BatchNormAct2d" and isinstance(drop, nn.Module) and isinstance(act, nn.Module):
        return nn.Sequential(drop, act)
    return None


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    plain, whole, rest = conv.forward, norm.forward, after_norm(norm)
    assert rest is not None

    def convolve(x: torch.Tensor) -> torch.Tensor:
        if norm.training:
            return plain(x)
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        if conv.bias is not None:
            shift = shift + conv.bias * scale
        own = conv._parameters
        # The convolution's own forward pads as its class does; it only sees other numbers.
        folded_in: dict[str, Any] = {**own, "weight": conv.weight * scale[:, None, None, None], "bias": shift}
        conv._parameters = folded_in
        try:
            return plain(x)
        finally:
            conv._parameters = own

    def finish(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = whole(x) if norm.training else rest(x)
        return result

    # Of these instances, not of their classes: other networks are not concerned.
    vars(conv)["forward"], vars(norm)["forward"] = convolve, finish


def _unfold(pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> None:
    for pair in pairs:
        for module in pair:
            del vars(module)["forward"]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
