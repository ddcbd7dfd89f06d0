"""Results as one self-contained HTML page."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tlopt.artifact import Artifact
from tlopt.cards.card import Step
from tlopt.reading.names import shown
from tlopt.reports.columns import head
from tlopt.reports.picture import Point, picture
from tlopt.reports.rows import Report, Scalar, number, text


def page(
    report: Report,
    *,
    points: Sequence[Point] = (),
    artifacts: Sequence[Artifact] = (),
    images: Sequence[Mapping[str, Any]] = (),
    made: datetime | None = None,
    limit_ms: float | None = None,
) -> str:
    """Return a report as one HTML page that needs no network and no script.

    Args:
        report: The table, its conditions and notes.
        points: What the accuracy-against-latency picture shows; none, no picture.
        artifacts: Those whose lineage is told.
        images: Images to show, each with "path" and "caption" (a list of lines).
        made: When it was measured; now if not given.
        limit_ms: Latency that was asked for, for the picture.
    """
    template = _environment().get_template("page.html.j2")
    interval = {"accuracy", "low", "high"} <= set(report.columns)
    hidden = {"skipped", "low", "high"} if interval else {"skipped"}
    columns = [name for name in report.columns if name not in hidden]
    content: str = template.render(
        report=report,
        rows=[{name: row.get(name) for name in (*columns, "skipped")} for row in report.rows],
        cells=[{name: _cell(name, row, interval=interval) for name in columns} for row in report.rows],
        columns=columns,
        numeric={name: _is_numeric(report, name) for name in columns},
        best=_best(report),
        picture=picture(points, title=report.title, limit_ms=limit_ms) if points else "",
        artifacts=[_told(artifact, artifacts) for artifact in artifacts],
        images=[{"image": thumbnail(Path(one["path"])), "caption": one["caption"]} for one in images],
        made=(made or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return shown(content)


@functools.cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tlopt.reports", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["plain"] = _plain
    environment.filters["heading"] = _heading
    return environment


def _heading(name: str) -> str:
    """Return a column or condition's name as a person writes it."""
    words = head(name).replace("latency ms batch", "ms at batch").replace("speed up", "speed-up")
    return words.replace("size MB", "size, MB").replace("images per s", "images/s").replace("mmacs", "MMACs")


def thumbnail(path: Path, *, side: int = 160) -> str:
    """Return a small JPEG of an image as a data URL; empty if it cannot be read."""
    from tlopt.errors import ImagesError
    from tlopt.reading.image_files import read_image
    from tlopt.reading.pictures import to_rgb

    try:
        image = to_rgb(read_image(path))
    except ImagesError:
        return ""
    image.thumbnail((side, side))
    target = io.BytesIO()
    image.save(target, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode("ascii")


def _is_numeric(report: Report, name: str) -> bool:
    values = [row[name] for row in report.rows if row.get(name) is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _cell(name: str, row: Mapping[str, Scalar], *, interval: bool) -> str:
    """Return a value as the page writes it: shares in per cent, an accuracy with its interval."""
    value = row.get(name)
    if not isinstance(value, float):
        return text(value)
    if name == "accuracy" and interval:
        return f"{100 * value:.1f} % ({100 * _float(row['low']):.1f}–{100 * _float(row['high']):.1f})"
    if name in ("accuracy", "agreement", "top5"):
        return f"{100 * value:.1f} %"
    return f"{value:.2f} ×" if name == "speed_up" else number(value)


def _float(value: Scalar) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


# Columns in which one end is the better one.
_HIGHER = ("accuracy", "agreement", "images_per_s", "speed_up")
_LOWER = ("latency_ms", "p50_ms", "size_mb")


def _best(report: Report) -> dict[str, float]:
    """Return the best value of each column that has one."""
    found = {}
    for name in report.columns:
        values = [_float(row[name]) for row in report.rows if isinstance(row.get(name), int | float)]
        if len(values) < 2 or len(set(values)) == 1:
            continue
        if name.startswith(_HIGHER):
            found[name] = max(values)
        elif name.startswith(_LOWER):
            found[name] = min(values)
    return found


def _told(artifact: Artifact, others: Sequence[Artifact]) -> dict[str, Any]:
    """Return an artifact's facts and lineage, its sources named where they are among the others."""
    names = {other.digest: other.name for other in others}
    card = artifact.card
    return {
        "name": artifact.name,
        "model": card.model,
        "kind": card.kind,
        "precision": card.precision,
        "size_mb": number(artifact.size_mb),
        "classes": f"{len(card.classes)}: {', '.join(card.classes[:12])}{' …' * (len(card.classes) > 12)}",
        "digest": artifact.digest[:12],
        "files": {name: digest[:12] for name, digest in card.files.items()},
        "steps": [_step(step, names) for step in card.lineage],
    }


def _step(step: Step, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "stage": step.stage,
        "seconds": _duration(step.seconds),
        "source": names.get(step.source, "") or step.source[:12],
        "device": step.device,
        "settings": {name: _plain(value) for name, value in step.telling.items()},
        "versions": dict(step.versions),
    }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _plain(value: Any) -> str:
    """Return any JSON value as short text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return text(value) if value is None or isinstance(value, str | int | float | bool) else str(value)
