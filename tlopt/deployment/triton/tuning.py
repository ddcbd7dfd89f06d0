"""Which settings serve the most images within a latency: found by loading a real server on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tlopt.deployment import reference
from tlopt.deployment.job import Job
from tlopt.deployment.serving.client import load
from tlopt.deployment.serving.environment import Environment
from tlopt.deployment.serving.server import serving
from tlopt.deployment.triton.asking import request_inputs
from tlopt.deployment.triton.repository import Settings, batches, repository
from tlopt.environment import cores, processor
from tlopt.errors import CheckError
from tlopt.progress import bar

log = logging.getLogger(__name__)

SECONDS = 1.5  # of each load
_CALLERS = (1, 2, 4, 8, 16, 32, 64)
_BETTER = 1.03  # a change has to serve so many times the images: less is noise
_IMAGES = 6  # different ones that are asked for in turn


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a server did with some settings.

    Args:
        settings: The settings.
        callers: Clients at the load with the most images within the latency, or 1.
        per_s: Images a second then; 0 if no load stayed within the latency.
        p99_ms: 99th percentile of the latency then.
    """

    settings: Settings
    callers: int
    per_s: float
    p99_ms: float


def tune(job: Job, folder: Path, environment: Environment) -> tuple[Settings, str]:
    """Return the settings that serve the most images while 99 % of the answers take no longer than the job says.

    One setting after another is changed and kept where it helps. What the job fixes stays.

    Args:
        job: The deployment.
        folder: Its model repository, whose configurations are written anew for each trial.
        environment: Where the server is.

    Returns:
        The settings, and a sentence on what was measured with them.

    Raises:
        CheckError: No setting keeps the latency.
    """
    assert job.tune_latency_ms is not None
    inputs = request_inputs(job, reference.images(_IMAGES))
    best = _measure(job, Settings.of(job), folder, environment, inputs)
    axes = list(_axes(job))
    with bar("Tuning", sum(map(len, axes))) as shown:
        for choices in axes:
            for settings in [choice(best.settings) for choice in choices]:
                if settings != best.settings:
                    best = _better(best, _measure(job, settings, folder, environment, inputs))
                shown.advance()
    if not best.per_s:
        raise CheckError(
            f"No setting answers 99 % of the requests within {job.tune_latency_ms:g} ms here: "
            f"one client alone waits {best.p99_ms:.3g} ms.",
            hint="Allow more with --tune-latency-ms, or make the network faster: tlopt prune, tlopt quantize.",
        )
    said = (
        f"Tuned on {processor()} with {cores()} cores, which the clients used, too: {best.per_s:.0f} images a second "
        f"with {best.callers} clients, 99 % of the answers within {best.p99_ms:.3g} ms."
    )
    return best.settings, said


def _better(best: Measured, found: Measured) -> Measured:
    """Return the one with more images within the latency, or, of two with none, the faster one."""
    if found.per_s > best.per_s * _BETTER:
        return found
    return found if not best.per_s and found.p99_ms < best.p99_ms else best


class _Choice:
    """Changes some fields of settings."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def __call__(self, settings: Settings) -> Settings:
        return replace(settings, **self.fields)


def _axes(job: Job) -> Iterator[Sequence[_Choice]]:
    """Yield what may be changed, one axis after the other, with its values."""
    if not job.instances:
        counts = [2**power for power in range(4) if 2**power <= max(2, cores())]
        yield [_Choice(instances=n, threads=job.threads or max(1, cores() // n)) for n in counts]
    elif not job.threads:
        yield [_Choice(threads=n) for n in sorted({1, max(1, cores() // job.instances), cores()})]
    if not batches(job):
        return
    yield [_Choice(max_batch=2**power) for power in range(13) if 2**power < job.max_batch]
    if job.max_delay_ms is None:
        assert job.tune_latency_ms is not None
        yield [_Choice(max_delay_ms=ms) for ms in (0.0, 0.1, 2.0, job.tune_latency_ms / 4)]


def _measure(
    job: Job, settings: Settings, folder: Path, environment: Environment, inputs: Sequence[np.ndarray]
) -> Measured:
    assert job.tune_latency_ms is not None
    made = repository(job, settings)
    made.rewrite(folder)
    loads = [{"loop": "closed", "protocol": "grpc", "callers": n, "seconds": SECONDS} for n in _CALLERS]
    with serving(environment, folder) as server:
        rows = load(
            environment, server.ports, made.endpoint, inputs, loads, stop_over_p99_ms=job.tune_latency_ms
        )  # fmt: skip
    within = [row for row in rows if row["p99_ms"] <= job.tune_latency_ms and not row["lost"]]
    best = max(within, key=lambda row: row["per_s"]) if within else rows[0]
    images = best["per_s"] * max(1, job.fixed_batch) if within else 0.0
    log.info("%s: %.0f images/s within %g ms (99 %%: %.3g ms)", settings, images, job.tune_latency_ms, best["p99_ms"])
    return Measured(settings=settings, callers=best["callers"], per_s=images, p99_ms=best["p99_ms"])
