"""Which networks to train: how well each may do on some images, and how fast it is here."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tlopt.backends import expect_here
from tlopt.environment import MOST_THREADS, cores, processor, versions, waiting
from tlopt.errors import ArtifactError, MissingLibraryError, PluginError, StageError
from tlopt.images import ImageFolder, scan
from tlopt.images.cache import Cache
from tlopt.images.headers import with_headers
from tlopt.images.parts import Shares
from tlopt.process import temporary
from tlopt.progress import hidden, track
from tlopt.reports import Report, Scalar
from tlopt.search.features import MOST, Score, expect_pairs, frozen_accuracy, seen
from tlopt.search.pareto import front
from tlopt.search.space import SIZES, Network, Point, Precision, chosen_space
from tlopt.search.timed import SESSIONS, Timed, time_untrained
from tlopt.settings import MOST_IMAGES, MOST_IN_BATCH, Setting, flat, ruled
from tlopt.sources import expect_known_at_once

log = logging.getLogger(__name__)

_NUMBERS: tuple[Precision, ...] = ("fp32", "int8")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A network at a size of its input.

    Args:
        network: The network.
        image_size: Side of the input, pixels.
        timed: Precision -> the timings of each backend.
        score: What a regression on its features gets right; None if that could not be told.
        problem: Why not; empty if it could.
    """

    network: Network
    image_size: int
    timed: Mapping[str, tuple[Timed, ...]] = field(repr=False)
    score: Score | None
    problem: str = ""

    def fastest(self, precision: str) -> Timed | None:
        """Return the timing of the backend that is fastest in a precision; None if none runs it."""
        ran = [one for one in self.timed.get(precision, ()) if not one.problem]
        return min(ran, key=lambda one: one.latency_ms, default=None)

    @property
    def latency_ms(self) -> float:
        """The latency in the fastest precision, on the fastest backend; not a number if nothing runs it."""
        found = [timed.latency_ms for precision in _NUMBERS if (timed := self.fastest(precision)) is not None]
        return min(found, default=math.nan)

    def row(self, *, pareto: bool, backends: bool) -> dict[str, Scalar]:
        """Return the row of the table.

        Args:
            pareto: Whether no other row is both as accurate and as fast.
            backends: Whether the fastest backend is named.
        """
        row: dict[str, Scalar] = {"model": self.network.label, "image_size": self.image_size}
        low, high = self.score.interval if self.score else (None, None)
        row |= {"accuracy": self.score.accuracy if self.score else None, "low": low, "high": high}
        row["pareto"] = pareto
        for precision in _NUMBERS:
            timed = self.fastest(precision)
            fast, slow = timed.interval_ms if timed else (None, None)
            row |= {f"{precision}_ms": timed.latency_ms if timed else None}
            row |= {f"{precision}_low_ms": fast, f"{precision}_high_ms": slow}
            row |= {f"{precision}_mb": timed.size_mb if timed else None}
            row |= {f"{precision}_on": timed.backend if timed else None} if backends else {}
        return row

    def problems(self) -> list[str]:
        """Return what could not be measured, a sentence or two each."""
        where = f"{self.network.label} at {self.image_size} px"
        found = [
            f"{where} in {precision} on {one.backend}: {one.problem}"
            for precision, several in self.timed.items()
            for one in several
            if one.problem
        ]
        return [*found, *([f"{where}: {self.problem}"] if self.problem else [])]


def _check_backends(backend: tuple[str, ...]) -> None:
    for spelled in backend:
        expect_here(spelled)


def _check_models(models: tuple[str, ...]) -> None:
    expect_known_at_once(*(model for model in models if ":" in model))  # the others are artifacts


@flat
@ruled(_check_backends, _check_models)
def rank(
    source: str | Path,
    *,
    models: Annotated[
        tuple[str, ...],
        Setting(
            "Networks named source:name, or folders of artifacts. Default: small ones that can be had here.",
            metavar="SOURCE:NAME,…",
            common=True,
        ),
    ] = (),
    weights: Annotated[
        tuple[str, ...],
        Setting("Safetensors files that replace the pretrained weights of named networks.", metavar="NAME=FILE,…"),
    ] = (),
    image_sizes: Annotated[
        tuple[int, ...],
        Setting("Sides of the square input image, in pixels.", minimum=16, maximum=4096, common=True),
    ] = SIZES,
    backend: Annotated[tuple[str, ...], Setting("Backends, or backend:device. The fastest counts.", common=True)] = (
        "onnxruntime",
    ),
    batch: Annotated[int, Setting("Images per run.", minimum=1, maximum=MOST_IN_BATCH, common=True)] = 1,
    threads: Annotated[
        int, Setting("Processor threads of a run. 0 takes one per core.", minimum=0, maximum=MOST_THREADS, common=True)
    ] = 0,
    seconds: Annotated[
        float, Setting("Time measured for each network, size and precision, in seconds.", minimum=0.01)
    ] = 1.0,
    samples: Annotated[
        int,
        Setting(
            "Largest number of images that features are computed of.", minimum=10, maximum=MOST_IMAGES, group="Data"
        ),
    ] = MOST,
    seed: Annotated[int, Setting("Seed of all random choices.", minimum=0, group="Data")] = 0,
    shares: Shares,
    cache: Cache,
) -> Report:
    """Rank networks by accuracy and speed, before any training.

    The accuracy is that of a regression on features of the frozen network. It is cross-validated on
    the images for training and validation. Images of the test part are not looked at.

    The latency is measured on this machine in fp32 and int8. This needs no training. Rows
    that no other row beats in accuracy and latency are marked. The names in --weights are those of
    --models.

    A network that gains much from fine-tuning is underrated. Fine-tune the best few, and compare.

    Raises:
        SettingError: A setting does not fit.
        ImagesError: The images have no labels, or a class has a single image.
        PluginError: A network or a backend is unknown, or no network can be had here.
        ArtifactError: An artifact is no torch artifact, or weights do not fit.
        MissingLibraryError: A library is not installed.
        StageError: A backend cannot run here.
    """
    folder = scan(source)
    space, left_out = chosen_space(
        models=models, weights=weights, image_sizes=image_sizes, precisions=_NUMBERS, backend=backend, threads=threads
    )
    for one in space.networks:
        if (artifact := one.opened_artifact()) is not None:
            artifact.expect("torch")
    images = seen(folder, shares, seed)
    expect_pairs(with_headers(images))
    timed = _timed(space.points(), len(images.classes), batch=batch, seconds=seconds)
    ranked = [
        _looked_at(of, several, images, whole=folder, samples=samples, seed=seed, cache=cache)
        for of, several in timed.items()
    ]
    best = front([(-one.score.accuracy if one.score else math.nan, one.latency_ms) for one in ranked])
    rows = [one.row(pareto=marked, backends=len(space.backends) > 1) for one, marked in zip(ranked, best, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: -float(rows[i]["accuracy"] or -1))
    return Report(
        title=_title(ranked, images),
        rows=tuple(rows[i] for i in order),
        notes=(*_notes(ranked, left_out, batch), *(note for one in ranked for note in one.problems())),
        conditions={
            "processor": processor(),
            "cores": cores(),
            "openmp": waiting(),
            "images": str(folder.source),
            "val": shares.val,
            "test": shares.test,
            "seed": seed,
            "samples": samples,
            "backend": list(space.backends),
            "batch": batch,
            "threads": threads or cores(),
            "seconds": seconds,
            "sessions": SESSIONS,
            "versions": versions(),
        },
        not_run=_not_run(ranked, space.backends),
        details={"networks": [_detail(one) for one in ranked], "left_out": left_out},
    )


def _timed(
    points: Sequence[Point], classes: int, *, batch: int, seconds: float
) -> dict[tuple[Network, int], dict[str, list[Timed]]]:
    """Return the timings of each network and size, by precision."""
    found: dict[tuple[Network, int], dict[str, list[Timed]]] = {}
    with temporary.folder("rank") as folder:
        for point in track(points, label="Timing networks", total=len(points)):
            with hidden():
                timed = time_untrained(
                    point, classes=classes, work=folder, seconds=seconds, batch=batch, memory=False
                )  # fmt: skip
            found.setdefault((point.network, point.image_size), {}).setdefault(point.precision, []).append(timed)
    return found


def _looked_at(
    of: tuple[Network, int], timed: Mapping[str, Sequence[Timed]], images: ImageFolder, *, whole: ImageFolder,
    samples: int, seed: int, cache: Cache,
) -> Ranked:  # fmt: skip
    """Look at the features of a network at a size, which was timed."""
    network, size = of
    score, problem = None, ""
    try:
        score = frozen_accuracy(
            network, size, images, whole=whole, cache_dir=cache.folder, cache_gb=cache.cache_gb, seed=seed,
            most=samples,
        )  # fmt: skip
    except (ArtifactError, MissingLibraryError, PluginError, StageError) as error:  # the others can still be ranked
        problem = f"{error.message} {error.hint}".strip()
    times = {precision: tuple(several) for precision, several in timed.items()}
    return Ranked(network=network, image_size=size, timed=times, score=score, problem=problem)


def _title(ranked: Sequence[Ranked], images: ImageFolder) -> str:
    used = max((one.score.images for one in ranked if one.score), default=0)
    networks = len({one.network for one in ranked})
    part = f"{used} of " if used < len(images) else ""
    return f"{networks} network{'s' * (networks != 1)} on {part}{len(images)} training and validation images"


def _notes(ranked: Sequence[Ranked], left_out: Mapping[str, str], batch: int) -> list[str]:
    notes = [
        "The accuracy is that of a regression on frozen features, cross-validated. A network that gains much from "
        "fine-tuning is underrated. Fine-tune the best few before you choose.",
        f"Pareto: no other row is as accurate and as fast, in its faster precision at batch {batch}. What int8 costs "
        "in accuracy is not measured here.",
    ]
    notes += [
        f"{one.network.label} was trained on these images: its accuracy is that of its own classifier, on the "
        f"{one.score.images} that were for validation then."
        for one in ranked
        if one.score is not None and not one.score.folds
    ]
    every = [timed for one in ranked for several in one.timed.values() for timed in several]
    if disturbed := [timed for timed in every if timed.notes]:
        notes.append(f"{len(disturbed)} of {len(every)} timings were disturbed. One of them: {disturbed[0].notes[0]}")
    return [*notes, *(f"Left out: {name}. {reason}" for name, reason in left_out.items())]


def _not_run(ranked: Sequence[Ranked], backends: Sequence[str]) -> tuple[str, ...]:
    """Return which backends ran nothing, a sentence each."""
    found = []
    for backend in backends:
        name = backend.partition(":")[0]
        every = [t for one in ranked for several in one.timed.values() for t in several]
        tried = [timed for timed in every if timed.backend == backend or timed.backend.startswith(f"{name}:")]
        if tried and all(timed.problem for timed in tried):
            found.append(f"No network ran on {backend}: {tried[0].problem}")
    return tuple(found)


def _detail(one: Ranked) -> dict[str, Any]:
    score = one.score
    return {
        "model": one.network.name,
        "image_size": one.image_size,
        "features": None
        if score is None
        else {"loss": score.loss, "penalty": score.penalty, "folds": score.folds, "images": score.images,
              "seconds": score.seconds},
        "sessions_ms": {
            precision: {timed.backend: list(timed.sessions_ms) for timed in several}
            for precision, several in one.timed.items()
        },
    }  # fmt: skip
