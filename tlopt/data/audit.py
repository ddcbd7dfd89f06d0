"""What is wrong with a set of images."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np

from tlopt.data import duplicates, findings, page
from tlopt.data import labels as label_check
from tlopt.data.cleaning import clean
from tlopt.data.collection import Collection
from tlopt.data.findings import KINDS, Finding
from tlopt.data.inspection import inspect_all
from tlopt.errors import ImagesError, MissingLibraryError
from tlopt.images import SPLITS, ImageFolder, intrusion, scan
from tlopt.publishing import PAGE, check_place, write_whole
from tlopt.reports import Report, Scalar
from tlopt.settings import Setting, checked, ruled
from tlopt.sources import expect_known_at_once

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found in a set of images.

    From Python:
        images: The set.
        findings: All of them, the gravest kind first.
        notes: What was not checked, and why.
        cleaned: The cleaned copy, if one was asked for.
        page: The HTML page, if one was asked for.
    """

    images: ImageFolder
    findings: tuple[Finding, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    cleaned: Collection | None = None
    page: Path | None = None

    def of(self, kind: str) -> tuple[Finding, ...]:
        """Return the findings of one kind, a key of `tlopt.data.findings.KINDS`."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def to_report(self) -> Report:
        """Return a table with a row for each kind of finding; its details list them all."""
        rows: list[dict[str, Scalar]] = []
        for kind, about in KINDS.items():
            if not (found := self.of(kind)):
                continue
            files = {file for finding in found for file in finding.files}
            example = f"{found[0].files[0]}: {found[0].detail}" if found[0].files else found[0].detail
            rows.append(
                {
                    "severity": about.severity,
                    "finding": about.title,
                    "findings": len(found),
                    "images": len(files) if files else None,
                    "example": example,
                }
            )
        notes = list(self.notes)
        if not rows:
            notes.insert(0, "Nothing was found.")
        if self.cleaned is not None:
            notes.append(f"{self.cleaned.path} holds a cleaned copy of {len(self.cleaned.images)} images.")
        return Report(
            title=f"{self.images.source}: {len(self.images)} images in {len(self.images.classes)} classes",
            rows=tuple(rows),
            conditions={"path": str(self.images.source), "digest": self.images.digest},
            notes=tuple(notes),
            details={
                "classes": [{"class": name, **counts} for name, counts in self.counts().items()],
                "findings": [asdict(finding) for finding in self.findings],
            },
        )

    def to_json(self) -> str:
        """Return summary, class counts and all findings as JSON."""
        return json.dumps(self.to_report().to_dict(), indent=2) + "\n"

    def counts(self) -> dict[str, dict[str, int]]:
        """Return class name -> "images" and each part of the set -> number of images."""
        images = self.images
        parts = {SPLITS[i]: images.fixed == i for i in range(len(SPLITS)) if np.any(images.fixed == i)}
        return {
            name: {
                "images": count,
                **{part: int((inside & (images.labels == k)).sum()) for part, inside in parts.items()},
            }
            for k, (name, count) in enumerate(images.counts.items())
        }


def _check_model(labels: bool, model: str) -> None:
    if labels:
        expect_known_at_once(model)


@checked
@ruled(_check_model)
def audit(
    images: str | Path,
    *,
    fix: Annotated[
        Path | None, Setting("Folder to make, with a cleaned copy and its log. The source stays as it is.")
    ] = None,
    html: Annotated[Path | None, Setting("Page to write, with thumbnails of what was found.", output=PAGE)] = None,
    labels: Annotated[
        bool, Setting("Look for wrong labels. This needs the audit extra and a pretrained network.")
    ] = True,
    model: Annotated[str, Setting("Network whose features find wrong labels, named source:name.")] = (
        "pip:efficientnet_lite0"
    ),
    similarity: Annotated[
        float,
        Setting(
            "Similarity above which two images count as near duplicates. 1 finds exact copies only.",
            minimum=0.5,
            maximum=1,
        ),
    ] = 0.95,
    seed: Annotated[int, Setting("Seed of the folds in which labels are checked.", minimum=0)] = 0,
    force: bool = False,
) -> Audit:
    """Find damaged, repeated and wrongly labelled images.

    Takes a folder with one folder per class, or a manifest. Finds damaged files, copies, near
    duplicates in different parts, labels that look wrong, rare classes and odd formats.

    From Python:
        images: A folder of class folders, or a manifest.
        force: Replace `fix` and `html` if they exist.

    Raises:
        SettingError: A setting does not fit.
        ImagesError: The images cannot be used.
        OutputExistsError: `fix` or `html` exists and `force` is not set, or tlopt did not make it.
        OutputError: One lies among the images, or cannot be made.
        PluginError: The model is unknown.
    """
    _check_outputs(fix, html, [images], force)
    folder = scan(images)
    _check_outputs(fix, html, folder.places(), force)
    inspections = inspect_all(folder)
    copies = duplicates.find(inspections, similarity=similarity)
    found = [
        *findings.of_images(inspections),
        *findings.of_copies(folder, inspections, copies),
        *findings.of_classes(folder),
        *findings.of_other_files(folder),
    ]
    notes: list[str] = []
    if labels:
        try:
            found += _suspects(folder, copies.groups, model, seed)
        except (MissingLibraryError, ImagesError) as error:
            notes.append(f"Labels were not checked: {error.message} {error.hint}".strip())
    else:
        notes.append("Labels were not checked, as asked.")
    order = {kind: i for i, kind in enumerate(KINDS)}
    found.sort(key=lambda finding: order[finding.kind])
    log.info("audit: %d findings in %s", len(found), folder.source)
    cleaned = clean(folder, inspections, copies, fix, force=force) if fix is not None else None
    result = Audit(images=folder, findings=tuple(found), notes=tuple(notes), cleaned=cleaned, page=html)
    if html is not None:
        text = page.page(result.to_report(), folder, result.findings, result.counts())
        write_whole(html, text, errors="replace", special=True)  # of file names that are no UTF-8
    return result


def _check_outputs(fix: Path | None, html: Path | None, reads: Iterable[str | Path], force: bool) -> None:
    reads = tuple(reads)
    if fix is not None:
        check_place(fix, force=force, reads=reads, makes="set")
        intrusion.refuse(fix, reads)
    if html is not None:
        intrusion.check_file(html, makes=PAGE, force=force, reads=reads)


def _suspects(folder: ImageFolder, groups: np.ndarray, model: str, seed: int) -> list[Finding]:
    return [
        Finding(
            kind="wrong-label",
            files=(folder.files[suspect.index],),
            detail=f"labelled {folder.classes[folder.labels[suspect.index]]} ({suspect.given:.0%}), "
            f"looks like {folder.classes[suspect.suggestion]} ({suspect.suggested:.0%})",
            suggestion=folder.classes[suspect.suggestion],
            score=round(suspect.given, 4),
        )
        for suspect in label_check.suspects(folder, groups, model=model, seed=seed)
    ]
