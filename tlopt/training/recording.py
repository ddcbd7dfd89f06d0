"""A training step's passes forward and back on a GPU, recorded once and replayed.

Queued one by one, the two thousand kernels of a step take a processor five times as long as the GPU needs to run them.
Recorded as a CUDA graph they are one call. What is replayed has to be what would have been computed: before a recording
is trusted, a step on other images is computed both ways, and the gradients are compared.
"""

from __future__ import annotations

import logging
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import nn

from tlopt.networks import buffers
from tlopt.training import distributed

log = logging.getLogger(__name__)

Passes = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # inputs and targets to the loss; leaves gradients

WORTH = 20  # steps of a training that is long enough for a recording
_TOLERANCE = 0.02  # of the length of the gradient: kernels that add in any order differ in bf16
_AT = 2  # steps computed before the one that shows whether a recording is possible


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
        with buffers.kept(self._networks) as replaced:
            try:
                drawn = _drawn(inputs.device)
                with self._device.checked():
                    self._passes(inputs, targets)
                if _drawn(inputs.device) != drawn:
                    raise RuntimeError("a layer draws random numbers on the processor")
                self._model.zero_grad(set_to_none=True)
                self._recording = _Recording(self._passes, self._model, self._device, inputs, targets)
            except RuntimeError as error:
                self._refuse(str(error).partition("\n")[0])
            self._model.zero_grad(set_to_none=True)
            if self._recording is not None and replaced():
                self._refuse("a layer puts new tensors in the place of its buffers")
        distributed.seed(seed)
        return self._passes(inputs, targets)

    def _compared(self, recording: _Recording, inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> torch.Tensor:
        """Compute a step both ways, and trust the recording if it says the same."""
        with buffers.kept(self._networks):
            recording.replay(inputs, targets)
            found = [None if p.grad is None else p.grad.clone() for p in self._model.parameters()]
            self._model.zero_grad(set_to_none=True)
        distributed.seed(seed)
        try:
            loss = self._passes(inputs, targets)
        except torch.OutOfMemoryError:  # of a recording and a step beside it
            self._refuse("the GPU's memory is too small for both")
            self._model.zero_grad(set_to_none=True)
            distributed.seed(seed)
            return self._passes(inputs, targets)
        if (apart := _apart(found, [p.grad for p in self._model.parameters()])) < _TOLERANCE:
            recording.trusted = True
            log.info("the training steps are replayed from a recording: its gradients are %.1g apart", apart)
        else:
            self._refuse(f"its gradients are {apart:.1g} of their length apart")
        return loss

    def _refuse(self, why: str) -> None:
        self._recording, self.refused = None, why
        self._device.forget()
        log.info("the training steps are not recorded: %s", why)


class _Recording:
    """The passes of one shape of batch."""

    def __init__(
        self, passes: Passes, model: nn.Module, device: Device, inputs: torch.Tensor, targets: torch.Tensor
    ) -> None:
        self.trusted = False
        self._inputs, self._targets = inputs.clone(), targets.clone()
        self._again, self._loss = device.record(lambda: passes(self._inputs, self._targets))
        # They lie where the recording writes them, each time anew.
        self._gradients = [(p, p.grad) for p in model.parameters() if p.grad is not None]

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

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Run on a stream of its own, where waiting for the GPU is an error."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        before = torch.cuda.get_sync_debug_mode()
        stream.wait_stream(torch.cuda.current_stream())
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
            torch.cuda.current_stream().wait_stream(stream)

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """Record a CUDA graph. What it computes on has to stay where it is."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                result = work()
        except RuntimeError:
            # The generator believes that it is still being recorded: it gets a state that knows nothing of it.
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(torch.Generator("cuda").graphsafe_get_state())
            raise
        return graph.replay, result.detach()

    def forget(self) -> None:
        """Give back what torch keeps of freed memory."""
        torch.cuda.empty_cache()


def _drawn(device: torch.device) -> tuple[object, ...]:
    """Return the states of the processor's generators of random numbers: what they decide is not recorded."""
    own = b"" if device.type == "cpu" else torch.get_rng_state().numpy().tobytes()
    return random.getstate(), pickle.dumps(np.random.get_state()), own  # noqa: NPY002 - it is what others draw from


def _apart(found: Sequence[torch.Tensor | None], wanted: Sequence[torch.Tensor | None]) -> float:
    """Return how far two gradients lie apart, as a share of the second one's length; infinity if parts are missing."""
    if [one is None for one in found] != [one is None for one in wanted]:
        return float("inf")
    own = [one for one in wanted if one is not None]
    differences = torch._foreach_sub([one for one in found if one is not None], own)
    length, apart = (torch.stack(torch._foreach_norm(tensors)).norm() for tensors in (own, differences))
    return float(apart / length.clamp(min=torch.finfo(torch.float32).tiny))
