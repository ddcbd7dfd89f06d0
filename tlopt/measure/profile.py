"""Where the time of a run goes, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np

from tlopt.artifact import Artifact
from tlopt.backends import DEFAULT, call_of, expect_here, fixed_batch, load, open_runner, profiler
from tlopt.environment import MOST_THREADS, cores, processor, versions
from tlopt.errors import SettingError
from tlopt.images import intrusion
from tlopt.measure.candidates import running
from tlopt.measure.speed.feeds import Inputs
from tlopt.measure.speed.work import layers
from tlopt.publishing import PICTURE, write_whole
from tlopt.reports import Report, Scalar, bars
from tlopt.settings import MOST_IN_BATCH, MOST_REPEATS, MOST_SHOWN, Setting, checked
from tlopt.timing import side_by_side

_DRAWN = 40  # bars that fit a picture


@checked
def profile(
    artifact: str | Path | Artifact,
    *,
    backend: Annotated[str, Setting("Backend, or backend:device. Default: that of the artifact's kind.")] = "",
    batch: Annotated[int, Setting("Images per run.", minimum=1, maximum=MOST_IN_BATCH)] = 1,
    runs: Annotated[int, Setting("Number of runs whose times are averaged.", minimum=1, maximum=MOST_REPEATS)] = 30,
    threads: Annotated[
        int, Setting("Processor threads of a run. 0 takes one per core.", minimum=0, maximum=MOST_THREADS)
    ] = 0,
    top: Annotated[
        int, Setting("Number of layers in the table, slowest first. 0 shows all.", minimum=0, maximum=MOST_SHOWN)
    ] = 20,
    picture: Annotated[
        Path | None, Setting("SVG file to write, with the layers and operators as bars.", output=PICTURE)
    ] = None,
) -> Report:
    """Measure how long each layer of an artifact takes.

    The runtime's own profiler measures the layers. The whole run is measured without it, too.

    Raises:
        ArtifactError: The artifact is damaged, or the backend does not run its kind.
        PluginError: The backend is unknown or has no profiler.
        SettingError: The graph takes another number of images in a run.
        StageError: The backend cannot run it here, or failed while running.
    """
    artifact = Artifact.load(artifact)
    if picture is not None:
        seen = artifact.card.images
        reads = [artifact.path, *([Path(seen.path)] if seen is not None else [])]
        intrusion.check_file(picture, makes=PICTURE, reads=reads)
    spelled, _, device = (backend or DEFAULT[artifact.card.kind]).partition(":")
    artifact.expect(*load(spelled, device).READS)
    _fits(artifact, batch)
    layer_times = profiler(spelled, device)
    expect_here(backend or spelled)
    pool = Inputs(None, noise=False, largest=batch)
    inputs = np.ascontiguousarray(pool.of(artifact)[:batch])
    with open_runner(artifact, backend, threads=threads) as runner, running(artifact, runner.name):
        run = call_of(runner, artifact)
        (whole,) = side_by_side([lambda: run(inputs)], seconds=1.0)
        where, conditions = runner.name, runner.conditions
    with running(artifact, where):
        timed = layer_times(artifact, inputs, device=device, threads=threads, runs=runs)
    total = sum(taken for _, _, taken in timed)
    macs: dict[str, float] = {}
    if artifact.card.kind == "onnx":
        for layer in layers(artifact, batch=batch):
            macs.update(dict.fromkeys((layer.name, *layer.tensors), layer.macs / 1e6))
    rows: list[dict[str, Scalar]] = [
        {"layer": name, "op": op, "ms": taken, "share": taken / total, "mmacs": macs.get(_origin(name, macs))}
        for name, op, taken in sorted(timed, key=lambda one: -one[2])
    ]
    by_op: dict[str, float] = {}
    for _, op, taken in timed:
        by_op[op] = by_op.get(op, 0.0) + taken
    leading = sorted(by_op.items(), key=lambda item: -item[1])[:5]
    shown = rows[: top or None]
    title = f"{artifact.name} on {where}, batch {batch}"
    if picture is not None:
        slowest = sorted(timed, key=lambda one: -one[2])[: min(top or _DRAWN, _DRAWN)]
        write_whole(picture, bars(slowest, by_op, title=title), special=True)
    median_ms = whole.quantile_ms(0.5)
    return Report(
        title=f"{title}: {median_ms:.2f} ms a run, {len(timed)} layers",
        rows=tuple(shown),
        notes=(
            f"By operator: {', '.join(f'{op} {taken / total:.0%}' for op, taken in leading)}.",
            f"The layers add up to {total:.2f} ms under the profiler; a run without it takes {median_ms:.2f} ms.",
            *([f"{len(rows) - len(shown)} faster layers are not shown."] if len(rows) > len(shown) else []),
        ),
        conditions={
            "processor": processor(),
            "cores": cores(),
            "batch": batch,
            "runs": runs,
            "input": pool.what,
            "runner": dict(conditions),
            "versions": versions(),
        },
        details={"layers": rows},
    )


def _fits(artifact: Artifact, batch: int) -> None:
    """Refuse a batch that the graph does not take in one run.

    Raises:
        SettingError: It takes another number of images.
    """
    fixed = fixed_batch(artifact) if artifact.card.kind == "onnx" else 0
    if fixed and batch != fixed:
        raise SettingError(
            f"Each run of {artifact.path} takes a batch of {fixed}, got {batch}.", hint=f"Set --batch {fixed}."
        )


def _origin(layer: str, known: dict[str, float]) -> str:
    """Return the node of the graph that a runtime's fused layer was made of."""
    if layer in known:
        return layer
    # Runtimes append what they did to a name: OpenVINO "/WithoutBiases", ONNX Runtime "_nchwc" or "_quant".
    fitting = [name for name in known if layer.startswith((f"{name}/", f"{name}_"))]
    return max(fitting, key=len, default=layer)
