"""Everything that can be measured here about some artifacts, in one table and one page."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from tlopt.artifact import Artifact
from tlopt.backends import expect_known
from tlopt.environment import MOST_THREADS
from tlopt.errors import ArtifactError, MissingLibraryError, SettingError, StageError
from tlopt.images import intrusion
from tlopt.measure.answers.images import ImagePart, Part, open_part
from tlopt.measure.bench import bench
from tlopt.measure.candidates import candidates, for_tensorrt, labels
from tlopt.measure.evaluate import evaluate, same_classes
from tlopt.measure.scores import Evaluation
from tlopt.measure.speed.work import multiply_adds
from tlopt.publishing import check_place, draft, write_whole
from tlopt.reports import Point, Report, Scalar, page
from tlopt.settings import MOST_IN_BATCH, Setting, checked, ruled

log = logging.getLogger(__name__)

_Key = tuple[str, str]  # artifact, backend with device


def _check_backends(backend: tuple[str, ...]) -> None:
    expect_known(*backend)


@checked
@ruled(_check_backends)
def report(
    artifacts: Sequence[str | Path | Artifact],
    out: str | Path,
    *,
    images: Annotated[Path | None, Setting("Folder of labelled images. Default: the training images.")] = None,
    split: Annotated[Part, Setting("Part of the images to use.")] = "test",
    batch: Annotated[
        tuple[int, ...],
        Setting("Images per run. Several numbers are measured one after the other.", minimum=1, maximum=MOST_IN_BATCH),
    ] = (1, 32),
    backend: Annotated[tuple[str, ...], Setting("Backends, or backend:device. Default: the usual ones.")] = (),
    seconds: Annotated[
        float, Setting("Time measured for each artifact, backend and batch, in seconds.", minimum=0.01)
    ] = 1.5,
    threads: Annotated[
        int, Setting("Processor threads of a run. 0 takes one per core.", minimum=0, maximum=MOST_THREADS)
    ] = 0,
    title: Annotated[str, Setting("Title of the page. Default: the network's name.")] = "",
    force: bool = False,
) -> Report:
    """Write a page on the accuracy and speed of artifacts.

    The artifacts are measured on every backend that runs them here. The folder gets report.html and
    report.json. Agreement and speed-up are against the first artifact on the backend of its kind.

    From Python:
        artifacts: What to measure; the first is the reference.
        out: Folder to make.
        force: Replace an older report at `out`.

    Raises:
        ArtifactError: An artifact is damaged, or no classifier.
        ImagesError: The images cannot be used, or their classes are not the artifacts'.
        PluginError: A backend is unknown.
        SettingError: An artifact is named twice.
        OutputExistsError: `out` exists and `force` is not set, or it is no report.
        OutputError: It lies among the images, or cannot be made.
        StageError: Nothing could run.
    """
    given = [one.path if isinstance(one, Artifact) else one for one in artifacts]
    check_place(out, force=force, reads=[*given, *([images] if images else [])], makes="report")
    loaded = [Artifact.load(artifact).expect_classifier("report") for artifact in artifacts]
    _refuse_repeated(loaded)
    named = {name: same_classes(loaded[0], one) for name, one in zip(labels(loaded), loaded, strict=True)}
    opened = open_part(loaded[0], images, split)
    reads = [*(one.path for one in loaded), *opened.folder.places()]
    intrusion.refuse(out, reads)
    with draft(out, force=force, reads=reads, makes="report") as folder:
        made, text = _measured(
            loaded, named, opened, backend=backend, batch=batch, seconds=seconds, threads=threads, title=title
        )
        if all(row.get("skipped") for row in made.rows):
            made.check()  # an older report is not replaced by one that says nothing
        write_whole(folder / "report.json", made.to_json())
        write_whole(folder / "report.html", text, errors="replace")
    return made


def _refuse_repeated(loaded: Sequence[Artifact]) -> None:
    """Refuse an artifact that is named twice: its rows could not be told apart.

    Raises:
        SettingError: One is.
    """
    places = [os.path.realpath(one.path) for one in loaded]
    for one, place in zip(loaded, places, strict=True):
        if places.count(place) > 1:
            raise SettingError(f"{one.path} is named twice.", hint="Name each artifact once.")


def _measured(
    loaded: Sequence[Artifact], named: Mapping[str, Artifact], opened: ImagePart, *, backend: tuple[str, ...],
    batch: tuple[int, ...], seconds: float, threads: int, title: str,
) -> tuple[Report, str]:  # fmt: skip
    """Return the report and its page."""
    judged = _evaluations(named, opened, backend, threads)
    quick = [one for one in loaded if backend or not for_tensorrt(one)]
    timed = bench(
        quick, batch=batch, backend=backend, seconds=seconds, threads=threads, images=opened.folder.source,
        memory=False, names=[name for name, one in named.items() if one in quick],
    )  # fmt: skip
    times = {
        ((str(row["artifact"]), str(row["backend"])), row["batch"]): row for row in timed.rows if "skipped" not in row
    }
    rows = _rows(judged, times, named, batch)
    notes = [*_findings(rows, batch), *_rivals(named)]
    rows += [
        {name: row[name] for name in ("artifact", "precision", "backend", "skipped")}
        for row in timed.rows
        if "skipped" in row
    ]
    if aimed := [name for name, one in named.items() if one not in quick]:
        notes.append(f"Made for TensorRT, so not timed on this processor: {', '.join(aimed)}.")
    rows.sort(key=lambda row: list(named).index(str(row["artifact"])))
    made = Report(
        title=title or f"{loaded[0].card.model.partition(':')[2] or loaded[0].name}: accuracy and speed",
        rows=tuple(rows),
        notes=(*notes, *timed.notes, *_left_out(opened)),
        not_run=timed.not_run,
        conditions={
            "images": f"{len(opened)} of {opened.folder.source}, part {opened.part}",
            "reference": f"{' on '.join(next(iter(judged), ('none',)))}: agreement and speed-up are against it",
            **timed.conditions,
        },
        details={
            "bench": [dict(row) for row in timed.rows],
            "turn_medians_ms": timed.details["turn_medians_ms"],
            "classes": {f"{name} on {where}": [vars(s) for s in one.scores] for (name, where), one in judged.items()},
        },
    )
    return made, page(made, points=_points(rows, batch), artifacts=loaded)


def _evaluations(
    named: Mapping[str, Artifact], opened: ImagePart, backend: tuple[str, ...], threads: int
) -> dict[_Key, Evaluation]:
    """Evaluate each artifact on each backend that can run it here; the bench tells why one cannot."""
    found: dict[_Key, Evaluation] = {}
    label = {artifact.path: name for name, artifact in named.items()}
    for candidate in candidates(named.values(), backend):
        reference = next(iter(found.values()), None)
        if candidate.problem:
            continue
        try:
            one = evaluate(
                candidate.artifact,
                backend=candidate.backend,
                threads=threads,
                opened=opened,
                reference_outputs=reference.outputs if reference else None,
            )
        except (StageError, MissingLibraryError, ArtifactError) as error:
            log.info("%s on %s: %s", candidate.artifact.path, candidate.backend, error.message)
            continue
        found[label[candidate.artifact.path], one.runner] = one
    return found


def _rows(
    judged: Mapping[_Key, Evaluation], times: Mapping[tuple[_Key, Scalar], Mapping[str, Scalar]],
    named: Mapping[str, Artifact], batch: tuple[int, ...],
) -> list[Mapping[str, Scalar]]:  # fmt: skip
    """Return one row per artifact and backend."""
    first = next((times[key, batch[0]] for key in judged if (key, batch[0]) in times), None)
    macs = {name: _million_macs(artifact) for name, artifact in named.items()}
    rows: list[Mapping[str, Scalar]] = []
    for key, one in judged.items():
        row: dict[str, Scalar] = {
            "artifact": key[0],
            "precision": named[key[0]].card.precision,
            "backend": one.runner,
            "accuracy": one.top1,
            "low": one.interval[0],
            "high": one.interval[1],
            "agreement": one.agreement,
        }
        for size in batch:
            if timing := times.get((key, size)):
                row[f"latency_ms_batch_{size}"] = timing["p50_ms"]
        row["images_per_s"] = max(
            (float(times[key, b]["images_per_s"] or 0) for b in batch if (key, b) in times), default=None
        )
        timing = times.get((key, batch[0]))
        if timing and first:
            row["speed_up"] = float(first["p50_ms"] or 0) / float(timing["p50_ms"] or 1)
        row["mmacs"] = macs[key[0]]
        row["size_mb"] = named[key[0]].size_mb
        rows.append(row)
    return rows


def _million_macs(artifact: Artifact) -> float | None:
    """Return the multiply-adds for one image in millions, None where they cannot be counted."""
    try:
        macs = multiply_adds(artifact)
    except (StageError, ArtifactError) as error:
        log.info("%s: %s", artifact.path, error.message)
        return None
    return None if macs is None else macs / 1e6


def _points(rows: Sequence[Mapping[str, Any]], batch: tuple[int, ...]) -> list[Point]:
    column = f"latency_ms_batch_{batch[0]}"
    return [
        Point(
            label=row["artifact"],
            precision=row["precision"],
            runtime=row["backend"].partition(":")[0],
            latency_ms=row[column],
            accuracy=row["accuracy"],
            low=row["low"],
            high=row["high"],
        )
        for row in rows
        if row.get(column) is not None
    ]


def _findings(rows: Sequence[Mapping[str, Any]], batch: tuple[int, ...]) -> list[str]:
    """Return what a reader should take away, and what he should beware of."""
    column = f"latency_ms_batch_{batch[0]}"
    usable = [row for row in rows if row.get(column) is not None]
    if not usable:
        return []
    first, notes = usable[0], []
    fastest = min(usable, key=lambda row: float(row[column]))
    if fastest is not first:
        notes.append(
            f"Fastest at batch {batch[0]}: {fastest['artifact']} on {fastest['backend']}, {fastest[column]:.2f} ms, "
            f"{fastest['speed_up']:.1f} times as fast as {first['artifact']} on {first['backend']}; accuracy "
            f"{fastest['accuracy']:.1%} against {first['accuracy']:.1%}."
        )
    notes += _slower(usable, batch)
    worse: dict[str, list[str]] = {}
    for row in rows:
        if row["accuracy"] is not None and row["accuracy"] < first["low"]:
            worse.setdefault(f"{row['accuracy']:.1%}", []).append(f"{row['artifact']} on {row['backend']}")
    notes += [
        f"Warning: {share} right, below the interval of {first['artifact']} ({first['low']:.1%} to "
        f"{first['high']:.1%}): {', '.join(names)}."
        for share, names in worse.items()
    ]
    return notes


def _slower(rows: Sequence[Mapping[str, Any]], batch: tuple[int, ...]) -> list[str]:
    """Warn of each artifact that is slower than the fastest fp32 one on the same backend."""
    notes = []
    for row in rows:
        full = [r for r in rows if r["precision"] == "fp32" and r["backend"] == row["backend"]]
        if row["precision"] == "fp32" or not full:
            continue
        parts = []
        for size in batch:
            name = f"latency_ms_batch_{size}"
            quicker = min(full, key=lambda r: float(r[name]))
            if quicker[name] < row[name]:
                parts.append(f"batch {size} {row[name]:.2f} against {quicker[name]:.2f} ms of {quicker['artifact']}")
        if parts:
            notes.append(f"Warning: {row['artifact']} is slower than fp32 on {row['backend']}: {'; '.join(parts)}.")
    return notes


def _rivals(named: Mapping[str, Artifact]) -> list[str]:
    """Say of each pruned network whether the unpruned one on smaller images looks better."""
    rivals = {name: one.card.torch.rival for name, one in named.items() if one.card.kind == "torch"}
    return [f"Warning: {name}: {rival.told()}" for name, rival in rivals.items() if rival is not None and rival.better]


def _left_out(opened: ImagePart) -> list[str]:
    count = len(opened.unreadable)
    return [f"Images left out because they cannot be read ({count}): {', '.join(opened.unreadable)}."] if count else []
