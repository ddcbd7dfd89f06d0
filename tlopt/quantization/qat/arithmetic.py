"""Rounding that gradients pass through: of weights and of activations."""

from __future__ import annotations

import math
from typing import Any

import torch

_TINY = 1e-12


def fold(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gain: torch.Tensor | None,
    shift: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a convolution's weight and bias with the batch norm after it folded in."""
    factor = torch.rsqrt(variance + epsilon)
    if gain is not None:
        factor = factor * gain
    offset = (-mean if bias is None else bias - mean) * factor
    if shift is not None:
        offset = offset + shift
    return weight * factor[:, None, None, None], offset


def round_weight(weight: torch.Tensor, limit: int) -> torch.Tensor:
    """Return a weight (outputs, …) as its integers, up to ``limit``, show it; the gradient passes through."""
    largest = weight.detach().abs().flatten(1).amax(1)
    scale = (largest / limit).clamp_(min=_TINY)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -limit, limit)


def round_activation(
    values: torch.Tensor, logarithms: torch.Tensor, index: int, zero: int, low: int, high: int
) -> torch.Tensor:
    """Return values as integers of a learned scale show them."""
    rounded_: torch.Tensor = _Round.apply(values, logarithms[index], zero, low, high)  # type: ignore[no-untyped-call]
    return rounded_


class _Round(torch.autograd.Function):
    """Rounding to a grid; the gradient passes where nothing is clipped, and moves the scale."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, logarithm: torch.Tensor, zero: int, low: int, high: int
    ) -> torch.Tensor:
        scale = logarithm.detach().exp()
        level = torch.tensor(zero, dtype=torch.int32, device=scale.device)
        result: torch.Tensor = torch.fake_quantize_per_tensor_affine(values, scale, level, low, high)
        ctx.save_for_backward(values, result, scale)
        ctx.span = (low - zero - 0.5, high - zero + 0.5)
        # Keeps the step of a scale in proportion to that of a weight (arXiv 1902.08153, section 2.2).
        ctx.share = 1 / math.sqrt(values.numel() * high)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, result, scale = ctx.saved_tensors
        (gradient,) = gradients
        passed = gradient * ((values >= ctx.span[0] * scale) & (values <= ctx.span[1] * scale))
        # With v = values / scale: d result / d log scale is result - values inside the range, result outside.
        moved = ((gradient * result).sum() - (passed * values).sum()) * ctx.share
        return passed, moved, None, None, None
