"""PyTorch's tensors that an engine reads where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlopt.cards.details import Profile
from tlopt.errors import StageError

if TYPE_CHECKING:
    import torch


def refuse(inputs: torch.Tensor, profile: Profile) -> None:
    """Refuse a tensor that the engine cannot read where it lies.

    Raises:
        StageError: It does not fit.
    """
    fits = (
        inputs.is_cuda
        and inputs.device.index == 0
        and inputs.is_contiguous()
        and tuple(inputs.shape[1:]) == profile.shape
        and str(inputs.dtype) == f"torch.{profile.dtype}"
        and profile.min_batch <= len(inputs) <= profile.max_batch
    )
    if not fits:
        raise StageError(
            f"The engine takes a contiguous CUDA tensor (n, {', '.join(map(str, profile.shape))}) of {profile.dtype}, "
            f"n from {profile.min_batch} to {profile.max_batch}; got {tuple(inputs.shape)} of {inputs.dtype} on "
            f"{inputs.device}."
        )
