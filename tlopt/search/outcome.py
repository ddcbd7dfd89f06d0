"""What stands in the folder of a search: the best artifact so far, the report, and what else was to be kept."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tlopt.artifact import Artifact
from tlopt.cards.card import CARD_NAME, plain
from tlopt.errors import ArtifactError, OutputExistsError, StudyError, wrong_with
from tlopt.publishing import draft
from tlopt.publishing.claims import lock_file, wait_claimed
from tlopt.publishing.marks import Contents, contents
from tlopt.reading import files
from tlopt.reports import Report
from tlopt.search.pareto import front
from tlopt.search.study.folder import BEST, REPORT

if TYPE_CHECKING:
    from tlopt.search.funnel.situation import Situation

COSTS = "What it cost"
PATIENCE_S = 60.0  # for another worker that copies an artifact


@dataclass(frozen=True, kw_only=True)
class Study:
    """A search and what it found.

    Args:
        path: Its folder; None for a dry run.
        report: Everything that was tried, and the decision.
    """

    path: Path | None
    report: Report

    @property
    def best(self) -> Artifact | None:
        """The answer, ready to be deployed; None if nothing keeps to the budget."""
        if self.path is None or not (self.path / BEST / CARD_NAME).exists() or self.report.breaches:
            return None
        return Artifact.load(self.path / BEST)

    def to_report(self) -> Report:
        """Return the report."""
        return self.report


def finished(out: Path) -> Study:
    """Return what a finished search found, which stands in its folder.

    Raises:
        StudyError: Its report or its answer is gone or damaged.
    """
    found = Study(path=out, report=read_report(out))
    if not found.report.breaches:
        try:
            Artifact.load(out / BEST)
        except ArtifactError as error:
            raise StudyError(
                f"The search in {out} is finished, and its answer cannot be used any more. {error.message}",
                hint=f"Put {out / BEST} back from a copy, or start anew with --force, in a recipe with --force-from.",
            ) from error
    return found


def read_report(out: Path) -> Report:
    """Return the report that stands in the folder of a search.

    Raises:
        StudyError: There is none, or it is damaged.
    """
    try:
        found = Report.from_json(files.read_text(out / REPORT))
    except (OSError, ValueError) as error:
        stands = (out / BEST).is_dir()
        wrong, hint = wrong_with(error, f"The answer is in {out / BEST}." if stands else "Start anew with --force.")
        raise StudyError(f"{out / REPORT} {wrong}.", hint=hint) from error
    costs = found.details.get("costs")
    return replace(found, more=(Report(title=COSTS, rows=tuple(costs)),) if costs else ())


def publish_best(out: Path, made: Artifact, *, final: bool = False) -> None:
    """Let the best artifact so far stand in the folder of the search; another worker may do so at this moment.

    Args:
        out: The folder.
        made: The artifact.
        final: It is the answer: it must stand there, so a worker that copies another one is waited for.

    Raises:
        OutputExistsError: Something else lies there; only if it is the answer.
        OutputError: It cannot be written.
    """
    place = out / BEST
    if final:
        wait_claimed(lock_file(place), place, patience_s=PATIENCE_S)
    with contextlib.suppress(ArtifactError):
        if (place / CARD_NAME).exists() and plain(Artifact.load(place).card) == plain(made.card):
            return
    while True:
        try:
            copy_artifact(made, place)
        except OutputExistsError:
            if not final:
                return
            if not wait_claimed(lock_file(place), place, patience_s=PATIENCE_S):
                raise
        else:
            return


def withdraw_best(out: Path) -> None:
    """Remove a best artifact that turned out not to keep to the budget when it was timed once more."""
    best = out / BEST
    if not best.is_dir():
        return
    held = contents(best)
    for name in held.owned:
        (best / name).unlink(missing_ok=True)
    _prune(best, held.made)


def copy_artifact(made: Artifact, place: Path) -> Artifact:
    """Copy an artifact to a place, where one may lie already; return the copy.

    Raises:
        OutputExistsError: Something else lies there, or another process copies one there.
        OutputError: It cannot be written.
    """
    with draft(place, force=True, reads=[made.path]) as copied:
        for name in (*made.card.files, CARD_NAME):
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made.path / name, copied / name)
    return Artifact.load(place)


def keep_front(out: Path, now: Situation) -> None:
    """Keep all variants that no other beats in accuracy and time.

    Args:
        out: The folder of the search.
        now: What is known.
    """
    from tlopt.search.funnel import deciding

    found = [one for one in deciding.finalists(now) if not deciding.failed_again(now, one)]
    rows = [(one.measured.timed.latency_ms, -one.measured.accuracy) for one in found]
    for one, is_best in zip(found, front(rows), strict=True):
        if is_best:
            variant = one.variant
            made = Artifact.load(out / now.results.made[variant.made_key].artifact)
            copy_artifact(made, out / "pareto" / file_name(variant.label, variant.key))


def file_name(label: str, key: str) -> str:
    """Return the name of a folder for what a person calls so; the key tells those of one label apart."""
    told = "".join(one if one.isascii() and (one.isalnum() or one in "-_.") else "-" for one in label)
    return f"{told[:80]}-{key[:8]}".lstrip("-.")


def remove_work(out: Path) -> None:
    """Remove the artifacts that led to the answer; what tlopt did not write stays."""
    held = contents(out)
    for name in _of_work(held):
        (out / name).unlink(missing_ok=True)
    _prune(out / "work", lambda below: held.made(os.path.join("work", below)))


def has_work(out: Path) -> bool:
    """Return whether artifacts that led to the answer lie there."""
    return bool(_of_work(contents(out)))


def _of_work(held: Contents) -> list[str]:
    return [name for name in held.owned if name.startswith("work" + os.sep)]


def _prune(folder: Path, ours: Callable[[str], bool]) -> None:
    """Remove the empty folders of a folder that are ours, told by their paths in it, and itself if nothing is left."""
    for root, _, _ in os.walk(folder, topdown=False):
        if Path(root) == folder or ours(os.path.relpath(root, folder)):
            with contextlib.suppress(OSError):
                Path(root).rmdir()
