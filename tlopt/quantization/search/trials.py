"""Measure a network with some of its blocks left float: what it answers, and how long it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

import numpy as np

from tlopt.cards.details import AnswerKind, Output
from tlopt.quantization.search.losses import OfLabels, OfOutputs, Run
from tlopt.quantization.search.sensitivity import Trial

Times = Callable[[Run, Run, np.ndarray], Mapping[int, tuple[float, float]]]


class Trials:
    """Measures graphs beside the float one; a context manager that frees what it holds.

    Each is timed in turn with the graph all in integers, so that what disturbs one disturbs the other.

    Attributes:
        source_ms: Batch -> milliseconds of the float network, once the first graph was measured.
    """

    def __init__(
        self,
        *,
        float_: Run,
        opened: Callable[[tuple[str, ...]], AbstractContextManager[Run]],
        inputs: Callable[[], Iterable[np.ndarray]],
        labels: np.ndarray | None,
        times: Times | None,
        answers: AnswerKind = "logits",
        outputs: Sequence[Output] = (),
    ) -> None:
        """Take in what all measurements share.

        Args:
            float_: The float network.
            opened: Names of float blocks -> the network with all others in integers.
            inputs: Batches of images, the same ones at each call.
            labels: int64 (n,), theirs; None if they are not known.
            times: Two networks and a batch -> batch size -> milliseconds of each; None if they
                cannot be timed here.
            answers: What the networks' numbers mean.
            outputs: Of the card, if they are no classifiers.
        """
        self._opened, self._inputs, self._times = opened, inputs, times
        self._stack = contextlib.ExitStack()
        self._loss = OfOutputs(float_, inputs, outputs) if outputs else OfLabels(float_, inputs, labels, answers)
        self._yardstick = float_
        self._yardstick_ms: dict[int, float] = {}
        self.source_ms: dict[int, float] = {}

    def measure(self, floats: tuple[str, ...]) -> Trial:
        """Measure the network with these blocks in float; the first must be without any."""
        with contextlib.ExitStack() as own:
            run = (own if floats else self._stack).enter_context(self._opened(floats))
            loss = self._loss(run)
            latency = self._latency(run, first=not floats)
        return Trial(floats=floats, drop=loss.drop, flips=loss.flips, noise=loss.noise, latency_ms=latency)

    def _latency(self, run: Run, *, first: bool) -> dict[int, float]:
        if self._times is None:
            return {}
        found = self._times(self._yardstick, run, next(iter(self._inputs())))
        if first:
            self.source_ms.update({size: before for size, (before, _) in found.items()})
            self._yardstick, self._yardstick_ms = run, {size: after for size, (_, after) in found.items()}
            return self._yardstick_ms
        return {size: self._yardstick_ms[size] * after / before for size, (before, after) in found.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
