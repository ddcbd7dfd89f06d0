"""A training step's passes forward and back on a GPU, recorded once and replayed.

Queued one by one, the kernels of a small batch take the processor longer than the GPU that runs them. Recorded as a
CUDA graph they are one call. What is replayed has to be what would have been computed: before a recording is trusted, a
step on other images is computed both ways, and the gradients are compared.
"""

from __future__ import annotations

import itertools
import logging
import math
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from tlopt.errors import SettingError
from tlopt.networks import buffers
from tlopt.training import distributed
from tlopt.training.hyperparameters import Hyperparameters

log = logging.getLogger(__name__)

Passes = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # inputs and targets to the loss; leaves gradients

DEVICES = ("cuda",)  # that record
WORTH = 20  # steps of a training that is long enough for a recording
_TOLERANCE = 0.05  # of the length of a gradient: kernels that add in any order differ in bf16
_FLOOR = 0.05  # of the whole gradient's length
_AT = 2  # the step that is recorded: the first one makes what the others find


def expect_possible(settings: Hyperparameters) -> None:
    """Refuse to record steps that are not alike, or on a device that records none.

    Raises:
        SettingError: The settings ask for it.
    """
    if not settings.cuda_graphs:
        return
    if distributed.device().type not in DEVICES:
        raise SettingError("CUDA graphs need a GPU.", hint="Leave out --cuda-graphs.")
    others = {
        "--compile": settings.compile,
        "--accumulate": settings.accumulate > 1,
        "torchrun": distributed.world() > 1,
    }
    if found := [name for name, given in others.items() if given]:
        raise SettingError(f"--cuda-graphs does not go with {found[0]}.", hint="Leave out one of them.")


class Device(Protocol):
    """What records on a device."""

    def checked(self) -> AbstractContextManager[object]:
        """Return a context, apart from other work, in which an operation that waits for the device is an error."""

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """Return what repeats some work, and where its result then lies. The work itself is not done.

        Raises:
            RuntimeError: The work cannot be recorded.
        """

    def forget(self) -> None:
        """Give back the memory of what was recorded."""


class Recorder:
    """Computes the gradients of a run's steps, from a recording as soon as there is one.

    The steps of a recording have one shape, train the same layers, and compute on the same tensors.

    Args:
        passes: Runs a batch forward and back.
        networks: The one that learns, and others whose buffers the passes may change.
        device: What records.

    Attributes:
        refused: Why steps are not recorded; empty while they may be.
        replayed: Number of steps that came from a recording.
    """

    def __init__(self, passes: Passes, networks: Sequence[nn.Module], device: Device) -> None:
        self._passes, self._device = passes, device
        self._model, self._networks = networks[0], networks
        self._steps = 0
        self._recording: _Recording | None = None
        self.refused = ""
        self.replayed = 0

    def gradients(self, inputs: torch.Tensor, targets: torch.Tensor, *, seed: int) -> torch.Tensor:
        """Leave a batch's gradients with the parameters, which have none before, and return the loss.

        Args:
            inputs: (n, 3, size, size).
            targets: (n, classes).
            seed: Was given to `distributed.seed` for this step.
        """
        recording = self._recording
        if recording is not None and recording.trusted and recording.fits(inputs, targets):
            self.replayed += 1
            return recording.replay(inputs, targets)
        self._steps += 1
        if self.refused or self._steps < _AT:
            return self._passes(inputs, targets)
        if recording is None:
            return self._recorded(inputs, targets, seed)
        if recording.fits(inputs, targets):
            return self._compared(recording, inputs, targets, seed)
        return self._passes(inputs, targets)

    def _recorded(self, inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> torch.Tensor:
        """Record the passes, and compute the step without the recording."""
        why = ""
        with buffers.kept(self._networks) as replaced:
            try:
                drawn = _drawn(inputs.device)
                with self._device.checked():
                    self._passes(inputs, targets)
                if _drawn(inputs.device) != drawn:
                    raise RuntimeError("a layer draws random numbers on the processor")
                self._model.zero_grad(set_to_none=True)
                self._recording = _Recording(self._passes, self._networks, self._device, inputs, targets)
            except RuntimeError as error:
                why = str(error).partition("\n")[0]
            if replaced():
                why = why or "a layer puts new tensors in the place of its buffers"
        self._model.zero_grad(set_to_none=True)
        if why:  # outside of the handler: the error holds what was computed
            self._refuse(why)
        return self._computed(inputs, targets, seed)

    def _compared(self, recording: _Recording, inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> torch.Tensor:
        """Compute a step both ways, and trust the recording if it says the same."""
        with buffers.kept(self._networks):
            said = float(recording.replay(inputs, targets))
            found = [None if p.grad is None else p.grad.clone() for p in self._model.parameters()]
        self._model.zero_grad(set_to_none=True)
        loss = self._computed(inputs, targets, seed)
        if self._recording is None:
            return loss
        apart = _apart(found, [p.grad for p in self._model.parameters()])
        apart = apart if math.isnan(apart) else max(apart, abs(said - float(loss.detach())) / max(1.0, abs(said)))
        if apart < _TOLERANCE:
            recording.trusted = True
            log.info("the training steps are replayed from a recording, which is %.1g apart from them", apart)
        elif not math.isnan(apart):
            self._refuse(f"what is replayed is {apart:.1g} apart from what is computed")
        return loss  # a number that is none, as fp16 gives at first, says nothing: the next step is compared

    def _computed(self, inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> torch.Tensor:
        """Compute a step; if there is no memory for it beside a recording, without that."""
        distributed.seed(seed)
        try:
            return self._passes(inputs, targets)
        except torch.OutOfMemoryError:
            if self._recording is None:
                raise
        self._model.zero_grad(set_to_none=True)
        self._refuse("the GPU's memory is too small for a recording and a step beside it")
        distributed.seed(seed)
        return self._passes(inputs, targets)

    def look(self) -> None:
        """Let go of a recording whose network lies elsewhere by now."""
        if self._recording is not None and self._recording.moved():
            self._refuse("the network's weights lie elsewhere by now")

    def _refuse(self, why: str) -> None:
        if self._recording is not None:
            self._recording.clear()  # others may still hold it
        self._recording, self.refused = None, why
        self._device.forget()
        log.info("the training steps are not recorded: %s", why)


class _Recording:
    """The passes of one shape of batch."""

    def __init__(
        self, passes: Passes, networks: Sequence[nn.Module], device: Device, inputs: torch.Tensor, targets: torch.Tensor
    ) -> None:
        self.trusted = False
        self._networks = networks
        self._places = _places(networks)
        self._inputs, self._targets = inputs.clone(), targets.clone()
        self._again, self._loss = device.record(lambda: passes(self._inputs, self._targets))
        # They lie where the recording writes them, each time anew.
        self._gradients = [(p, p.grad) for p in networks[0].parameters() if p.grad is not None]

    def moved(self) -> bool:
        """Return whether weights or buffers lie elsewhere than when it was made."""
        return _places(self._networks) != self._places

    def clear(self) -> None:
        """Let go of everything on the GPU."""
        self.trusted = False
        self._gradients.clear()
        del self._inputs, self._targets, self._again, self._loss

    def fits(self, inputs: torch.Tensor, targets: torch.Tensor) -> bool:
        """Return whether it is of such batches."""
        pairs = (inputs, self._inputs), (targets, self._targets)
        return all(
            given.shape == own.shape and given.dtype == own.dtype and given.stride() == own.stride()
            for given, own in pairs
        )

    def replay(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._again()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._loss


class Graphs:
    """Records CUDA graphs."""

    def __init__(self) -> None:
        self._stream: Any = None  # one for all checks: each stream keeps a workspace of cuBLAS

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Run on a stream of its own, where waiting for the GPU is an error."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        before = torch.cuda.get_sync_debug_mode()
        self._stream.wait_stream(torch.cuda.current_stream())
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
            torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """Record a CUDA graph. What it computes on has to stay where it is."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        pool = torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, pool=pool):
                result = work()
        except RuntimeError as error:
            torch.cuda.set_stream(stream)
            _abandon(pool)
            raise RuntimeError(str(error.__context__ or error)) from None
        return graph.replay, result.detach()

    def forget(self) -> None:
        """Give back what torch keeps of freed memory."""
        with suppress(RuntimeError):
            torch.cuda.empty_cache()


def _abandon(pool: Any) -> None:
    """Undo what a recording that failed leaves behind: torch goes on as if it were still under way.

    The allocator fills the recording's pool, and the generator of random numbers counts for it.
    """
    device, api = torch.cuda.current_device(), torch._C
    ends = ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool")  # the second before torch 2.7
    for name in (*ends, "_cuda_releasePool"):
        with suppress(AttributeError, RuntimeError):
            getattr(api, name)(device, pool)
    fresh: Any = torch.Generator("cuda")
    torch.cuda.default_generators[device].graphsafe_set_state(fresh.graphsafe_get_state())


def _places(networks: Sequence[nn.Module]) -> list[int]:
    return [
        tensor.data_ptr() for network in networks for tensor in itertools.chain(network.parameters(), network.buffers())
    ]


def _drawn(device: torch.device) -> tuple[object, ...]:
    """Return the states of the processor's generators of random numbers: what they decide is not recorded."""
    own = b"" if device.type == "cpu" else torch.get_rng_state().numpy().tobytes()
    return random.getstate(), pickle.dumps(np.random.get_state()), own  # noqa: NPY002 - it is what others draw from


def _apart(found: Sequence[torch.Tensor | None], wanted: Sequence[torch.Tensor | None]) -> float:
    """Return how far two gradients lie apart in the layer where that is most; infinity if parts are missing.

    It is a share of the length of that layer's gradient and a twentieth of the whole one's together: where there is
    next to no gradient, rounding is most of it.
    """
    if [one is None for one in found] != [one is None for one in wanted]:
        return math.inf
    own = [one for one in wanted if one is not None]
    differences = torch._foreach_sub([one for one in found if one is not None], own)
    lengths, apart = (torch.stack(torch._foreach_norm(tensors)) for tensors in (own, differences))
    floor = (_FLOOR * lengths.norm()).clamp(min=torch.finfo(torch.float32).tiny)
    return float((apart / (lengths + floor)).max())
