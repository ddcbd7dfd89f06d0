"""PyTorch's tensors that an engine reads where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

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


@contextmanager
def answered(inputs: torch.Tensor, classes: int, kind: Any, stream: int) -> Iterator[torch.Tensor]:
    """Yield a tensor for the logits of a batch, for a block that queues the engine on its stream.

    PyTorch's current stream on the GPU of the batch waits for the engine's, and the engine's for PyTorch's.

    Args:
        inputs: The batch, a CUDA tensor.
        classes: Number of logits.
        kind: Their type, as NumPy knows it.
        stream: Handle of the engine's stream.
    """
    import torch

    logits = torch.empty((len(inputs), classes), dtype=getattr(torch, np.dtype(kind).name), device=inputs.device)
    external: Any = torch.cuda.ExternalStream
    here, ours = torch.cuda.current_stream(inputs.device), external(stream, device=inputs.device)
    ours.wait_stream(here)
    yield logits
    # Whatever PyTorch does next with this memory, it queues on a stream that waits for the engine's. To record the
    # engine's stream on the tensors would make them outlive it.
    here.wait_stream(ours)
