"""A page with thumbnails of what an audit found, in one file that needs no network."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tlopt.data.findings import KINDS, Finding
from tlopt.errors import ImagesError
from tlopt.images import ImageFolder, ordered
from tlopt.reading import names as naming
from tlopt.reading.image_files import read_image
from tlopt.reading.pictures import to_rgb, upright
from tlopt.reports import Report

_SHOWN = 48  # findings of a kind that get thumbnails; the JSON has them all
_TOGETHER = 6  # thumbnails of one finding
_SIDE = 168  # of a thumbnail, pixels: twice its size on the page, for dense screens


def page(
    report: Report,
    folder: ImageFolder,
    findings: Sequence[Finding],
    counts: Mapping[str, Mapping[str, int]],
    *,
    made: datetime | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        report: The audit's table.
        folder: The images.
        findings: All findings.
        counts: Class name -> "images" and each part -> number of images.
        made: When; now if not given.
    """
    by_kind = {kind: [finding for finding in findings if finding.kind == kind] for kind in KINDS}
    shown = {file for found in by_kind.values() for finding in found[:_SHOWN] for file in finding.files[:_TOGETHER]}
    files = sorted(shown)
    pictures = dict(zip(files, ordered(lambda file: thumbnail(folder.path / file), files), strict=True))
    label = dict(zip(folder.files, (folder.classes[i] for i in folder.labels.tolist()), strict=True))
    sections = [
        {
            "kind": kind,
            "about": KINDS[kind],
            "findings": found[:_SHOWN],
            "number": len(found),
            "more": max(0, len(found) - _SHOWN),
        }
        for kind, found in by_kind.items()
        if found
    ]
    text: str = (
        _environment()
        .get_template("audit.html.j2")
        .render(
            report=report,
            sections=sections,
            pictures=pictures,
            label=label,
            counts=counts,
            parts=[name for name in next(iter(counts.values())) if name != "images"],
            most=max((numbers["images"] for numbers in counts.values()), default=1) or 1,
            together=_TOGETHER,
            affected=len({file for finding in findings for file in finding.files}),
            made=(made or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    return naming.shown(text)


@functools.cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("tlopt.data", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def thumbnail(path: Path) -> str:
    """Return a small upright JPEG of an image as a data URL; empty if it cannot be read."""
    try:
        image = to_rgb(upright(read_image(path, at_least=_SIDE)))
    except ImagesError:
        return ""
    image.thumbnail((_SIDE, _SIDE))
    plain = io.BytesIO()
    image.save(plain, "JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(plain.getvalue()).decode("ascii")
