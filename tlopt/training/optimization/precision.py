"""The precision of training's arithmetic, chosen by what the processor is fast at."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from tlopt.errors import SettingError


class Arithmetic:
    """Runs forward and backward passes in one precision; the weights stay fp32.

    Attributes:
        name: "fp32", "bf16" or "fp16".
    """

    def __init__(self, name: str, device: torch.device) -> None:
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


def arithmetic(precision: str, device: torch.device) -> Arithmetic:
    """Return the arithmetic for a device.

    "auto" is bf16 where the processor has instructions that make it faster (AMX on x86, and GPUs
    since compute capability 8.0), fp16 on older GPUs, and fp32 elsewhere: without AMX, bf16 autocast
    on a CPU is slower than fp32.

    Raises:
        SettingError: The precision does not work on the device.
    """
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
        else:
            precision = "bf16" if _has_amx() else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise SettingError("fp16 training needs a GPU.", hint="Use --precision auto, fp32 or bf16 on a CPU.")
    return Arithmetic(precision, device)


def _has_amx() -> bool:
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())
