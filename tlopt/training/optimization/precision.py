"""The precision of training's arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from tlopt.errors import SettingError
from tlopt.training.hyperparameters import Precision


class Arithmetic:
    """Runs forward and backward passes in one precision; the weights stay fp32.

    Attributes:
        name: "fp32", "bf16" or "fp16".
    """

    def __init__(self, name: Precision, device: torch.device) -> None:
        self.name = name
        self._device = device
        # fp16's small range needs the loss scaled up (arXiv 1710.03740); bf16 has fp32's range.
        self._scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def forward(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16 if self.name == "bf16" else torch.float16)

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, *, clip: float) -> None:
        """Move the weights, with the gradient's norm cut to `clip` (arXiv 1211.5063) unless that is 0."""
        if clip:
            self._scaler.unscale_(optimizer)
            parameters = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
        self._scaler.step(optimizer)
        self._scaler.update()

    def scale(self) -> dict[str, float]:
        """Return the state of the loss scale."""
        return dict(self._scaler.state_dict())

    def restore(self, scale: dict[str, float]) -> None:
        """Take up what `scale` returned."""
        if scale:
            self._scaler.load_state_dict(scale)


def candidates(precision: Precision, device: torch.device) -> list[Precision]:
    """Return the precisions that may stand for a setting on a device; the first one is taken if none is faster.

    "auto" is fp32 on a processor, and bf16 beside it where the processor has instructions for it. Whether bf16 is
    faster depends on the network, too: it is for ResNets on a Xeon with AMX and on a Zen 4, and for EfficientNet-Lite0
    on neither. On a GPU "auto" is bf16 since compute capability 8.0, and fp16 before.
    """
    if precision != "auto":
        return [precision]
    if device.type == "cuda":
        return ["bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"]
    return ["fp32", "bf16"] if _computes_bf16() else ["fp32"]


def arithmetic(precision: Precision, device: torch.device) -> Arithmetic:
    """Return the arithmetic for a device; "auto" is the first of its candidates.

    Raises:
        SettingError: The precision does not work on the device.
    """
    if precision == "fp16" and device.type == "cpu":
        raise SettingError("fp16 training needs a GPU.", hint="Use --precision auto, fp32 or bf16 on a CPU.")
    return Arithmetic(candidates(precision, device)[0], device)


def _computes_bf16() -> bool:
    """Return whether the processor has instructions for bf16; where it has none, torch imitates them slowly."""
    known = getattr(torch.cpu, "get_capabilities", None)  # not in older versions of torch
    if known is not None:
        found = known()
        return any(found.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    asked = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(supported is not None and supported() for supported in asked)
