"""A search from its first step to the answer."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from tlopt.environment import versions
from tlopt.errors import OutputExistsError, SettingError, StudyError, TloptError
from tlopt.images import ImageFolder, Split
from tlopt.images.cache import Cache
from tlopt.publishing import write_whole
from tlopt.reports import Report, Scalar
from tlopt.search import answer, outcome
from tlopt.search.funnel import deciding, results, tasks
from tlopt.search.funnel.asked import Asked
from tlopt.search.funnel.clock import Clock
from tlopt.search.funnel.proposing import LARGE, ROUND
from tlopt.search.funnel.situation import Situation
from tlopt.search.funnel.variants import Way
from tlopt.search.funnel.worker import Role, Worker
from tlopt.search.funnel.workshop import Workshop
from tlopt.search.machine import fingerprint
from tlopt.search.once import digest_of
from tlopt.search.outcome import Study
from tlopt.search.study import folder
from tlopt.search.study.backing import shown_place
from tlopt.search.study.folder import Note
from tlopt.search.study.leases import Leases, owner, refuse_live
from tlopt.search.study.storage import Storage, Tried

_UNTRAINED = "untrained"  # in the place of a way to int8, of what was timed and not trained
_RESERVE, _LEAST_RESERVE_S = 0.06, 2.0  # share of the time that is kept for the answer

_ALONE = "No machine that measures has joined the search. It is not finished: one with --role measure goes on with it."


def planned(asked: Asked, minutes: float) -> Study:
    """Return what a search would try; nothing is made or written."""
    points = [point for point in asked.space.points() if point.width == 1 and point.precision in asked.numbers]
    rows: tuple[Mapping[str, Scalar], ...] = tuple(
        {
            "network": one.network.label,
            "px": one.image_size,
            "precisions": ", ".join(dict.fromkeys(p.precision for p in asked.points(one))),
            "backends": ", ".join(dict.fromkeys(p.backend for p in asked.points(one))),
        }
        for one in asked.contenders
    )
    notes = [
        f"{len(points)} classifiers, of {len(asked.contenders)} networks and sizes, would be timed without training. "
        f"Those that can keep to {asked.budget.told()} would be ranked. The best of them would be trained, in "
        f"{minutes:g} min in all.",
        *(
            [f"These are too many to time them all: {ROUND} at a time would be chosen by what is known."]
            if len(asked.contenders) > LARGE
            else []
        ),
        f"Images: {asked.images.train} to train, {asked.images.val} to decide, {asked.images.test} to judge.",
        *(f"Left out: {name}. {why}" for name, why in asked.left_out.items()),
    ]
    return Study(path=None, report=Report(title="Would be tried", rows=rows, notes=tuple(notes)))


def search(
    asked: Asked, whole: ImageFolder, parts: Mapping[Split, ImageFolder], out: Path, *, quick: str, minutes: float,
    study: str, role: Role, keep: str, cache: Cache, force: bool,
) -> Study:  # fmt: skip
    """Search, or go on with a search; return what was found.

    Raises:
        StudyError: The study is damaged, or is of another search or another tlopt.
        OutputExistsError: Something else is at `out`, or another search is writing there.
        SettingError: This machine is not the one that the search measures on.
    """
    note = Note(
        tlopt=versions()["tlopt"], identity=asked.identity(), quick=quick, study=shown_place(study) or folder.JOURNAL,
        minutes=minutes, token=secrets.token_hex(8), keep=keep,
    )  # fmt: skip
    if force and study:
        refuse_live(study)

    def opened(place: Path, *, anew: bool = False) -> Storage:
        return Storage(study or str(place / folder.JOURNAL), asked.identity(), anew=anew)

    def begin(place: Path) -> None:
        if force:  # an older search goes when this one has begun
            opened(place, anew=bool(study))

    reads = _reads(asked, whole)
    with folder.opened(out, note, force=force, shared=bool(study), reads=reads, begin=begin) as place:
        mine, note = note, replace(note, token=_token(place))  # another worker may have made the folder
        if _is_finished(place):
            _mend_report(place, asked, note, study, role)
            found = outcome.finished(out)
            _tidy(place, note, study)
            folder.tell_kept(place, keep)
            return found
        try:
            storage = opened(place)
            _expect_place(storage, place, note, study)
        except TloptError:
            folder.withdraw(place, mine)
            raise
        workshop = Workshop(asked=asked, out=place, folder=whole, parts=parts, cache=cache)
        return Study(path=out, report=_worked(workshop, storage, note, role, shared=bool(study)))


def _worked(workshop: Workshop, storage: Storage, note: Note, role: Role, *, shared: bool) -> Report:
    """Do what is to be done, and write the answer if nobody else does; return the report of what is known then.

    Raises:
        SettingError: This machine is not the one that the search measures on.
    """
    place, machine = workshop.out, _machine(storage, role, shared=shared)
    clock, leases = _clock(storage, note.minutes), Leases(storage=storage, who=owner(role))

    def noted(now: Situation) -> None:
        with contextlib.suppress(OutputExistsError), folder.telling(place):  # another worker tells it
            if not _is_finished(place):
                _stand(place, workshop, now)
                report = answer.report_of(now, clock, note.study, machine, so_far=True)
                write_whole(place / folder.REPORT, replace(report, breaches=()).to_json())

    worker = Worker(asked=workshop.asked, workshop=workshop, leases=leases, clock=clock, role=role, noted=noted)
    now = worker.run()
    report = answer.report_of(now, clock, note.study, machine)
    alone = role == "train" and storage.attribute("machine") is None
    if alone:
        report = replace(report, notes=(_ALONE, *report.notes))
    waits = alone or (role == "train" and bool(tasks.ready(now)))  # for the machine that measures
    if not waits and (number := leases.claim("answer", "Writing the answer")) is not None:
        with leases.beating(number), folder.telling(place, patience_s=outcome.PATIENCE_S):
            _answer(place, workshop, now, report, storage, note.keep)
            folder.write_note(place, replace(note, finished=True))
        storage.finish(number, {}, 0.0)
    # Only then, and only by the last one: what others work with lies there, and the answer must not need it again.
    if note.keep != "all" and _is_finished(place) and not leases.held(storage.entries()):
        outcome.remove_work(place)
    return report


def _mend_report(place: Path, asked: Asked, note: Note, study: str, role: Role) -> None:
    """Write the report and the page of a finished search anew where one of them is gone or damaged.

    Raises:
        StudyError: The study is empty, or is of another search.
        SettingError: This machine is not the one that the search measured on.
    """
    where = study or str(place / folder.JOURNAL)
    if not study and not Path(where).exists():
        return
    with contextlib.suppress(StudyError):
        outcome.read_report(place)
        if (place / folder.PAGE).exists():
            return
    if not Storage(where, None).entries():
        raise StudyError(
            f"The search in {place} is finished, and its study {shown_place(where)} has no step of it.",
            hint="Start anew with --force.",
        )
    storage = Storage(where, asked.identity())
    _expect_place(storage, place, note, study)
    machine, clock = _machine(storage, role, shared=bool(study)), _clock(storage, note.minutes)
    now = Situation(
        asked=asked, results=results.read(storage.entries()), left_s=clock.left_s, total_s=note.minutes * 60,
        reserve_s=clock.reserve_s,
    )  # fmt: skip
    answer.write(place, answer.report_of(now, clock, note.study, machine), now)


def _tidy(place: Path, note: Note, study: str) -> None:
    """Bring the note of a finished search up to date, and remove what a killed worker left behind its answer.

    What another worker needs stays, and so does all that the worker which finished the search was to keep.
    """
    old = folder.read_note(place)
    keep = old.keep if old is not None else "all"
    folder.write_note(place, replace(note, finished=True, keep=keep))
    with contextlib.suppress(StudyError):  # then nobody knows who is at work
        if keep != "all":
            leases = Leases(storage=Storage(study or str(place / folder.JOURNAL), None), who={})
            if not leases.held(leases.storage.entries()):
                outcome.remove_work(place)


def _token(place: Path) -> str:
    note = folder.read_note(place)
    return note.token if note is not None else ""


def _expect_place(storage: Storage, place: Path, note: Note, study: str) -> None:
    """Refuse the study of a search in another folder: what its steps made lies there.

    Raises:
        StudyError: It is one.
    """
    if storage.attribute("folder") is None:
        storage.note("folder", {"token": note.token, "path": str(place)})
    known = storage.attribute("folder")
    if known["token"] != note.token:
        raise StudyError(
            f"The study {shown_place(study) or folder.JOURNAL} is of the search in another folder, {known['path']}: "
            "what its steps made lies there.",
            hint="Give all machines the same --out, on a disk that they share. Or name another --study.",
        )


def _reads(asked: Asked, whole: ImageFolder) -> list[Path]:
    """Return all that a search reads: the images, artifacts, and files of weights."""
    networks = asked.space.networks
    return [*whole.places(), *(one for net in networks for one in (net.artifact, net.weights) if one is not None)]


def _is_finished(place: Path) -> bool:
    note = folder.read_note(place)
    return note is not None and note.finished


def _clock(storage: Storage, minutes: float) -> Clock:
    before = storage.attribute("spent_s")
    reserve = max(_LEAST_RESERVE_S, _RESERVE * minutes * 60)
    return Clock(
        minutes=minutes,
        reserve_s=min(reserve, 0.5 * minutes * 60),
        before_s=float(before) if before is not None else 0.0,
    )


def _machine(storage: Storage, role: Role, *, shared: bool) -> dict[str, Any]:
    """Return the machine that the search measures on: the first that may.

    Raises:
        SettingError: It is another one than this, and this one was to measure.
    """
    own = fingerprint()
    target = storage.attribute("machine")
    if target is None and role != "train":
        storage.note("machine", own)
        target = storage.attribute("machine")
    if role == "train":
        return dict(target or {})
    if digest_of(target) != digest_of(own):
        differ = ", ".join(name for name in own if target.get(name) != own[name])
        anew = "Choose another --out, or start anew with --force."
        raise SettingError(
            f"This machine is not the one that the search measures on: {differ} differ.",
            hint="Add --role train to train here for it." if shared else anew,
        )
    return own


def _stand(place: Path, workshop: Workshop, now: Situation, *, final: bool = False) -> None:
    """Let the best answer so far stand, whatever becomes of the search."""
    chosen = deciding.decision(now).chosen
    if chosen is not None:
        made = workshop.opened(now.results.made[chosen.variant.made_key].artifact)
        outcome.publish_best(place, made, final=final)


def _answer(place: Path, workshop: Workshop, now: Situation, report: Report, storage: Storage, keep: str) -> None:
    decision = deciding.decision(now)
    if decision.chosen is not None:
        _stand(place, workshop, now, final=True)
    else:
        outcome.withdraw_best(place)
    answer.write(place, report, now)
    _show(storage, now)
    if keep == "pareto":
        outcome.keep_front(place, now)


def _show(storage: Storage, now: Situation) -> None:
    """Write everything that was timed down for Optuna's own tools."""
    points, limit = now.asked.space.points(), now.asked.budget.limit_ms
    each = [_parameters(point, way) for point in points for way in (*get_args(Way), _UNTRAINED)]
    choices = {name: sorted({one[name] for one in each}) for name in each[0]}
    for finalist in deciding.finalists(now):
        variant, measured = finalist.variant, finalist.measured
        one = Tried(
            key=variant.key, parameters=_parameters(variant.point, variant.way), accuracy=measured.accuracy,
            latency_ms=measured.timed.latency_ms, excess_ms=_excess(measured.timed.latency_ms, limit),
        )  # fmt: skip
        storage.show(one, choices)
    for point in points:
        timed = now.results.timed.get(point.digest)
        if timed is not None:
            one = Tried(
                key=point.digest, parameters=_parameters(point, _UNTRAINED), accuracy=None, latency_ms=timed.latency_ms,
                excess_ms=_excess(timed.latency_ms, limit), why=now.asked.budget.over(timed),
            )  # fmt: skip
            storage.show(one, choices)


def _excess(latency_ms: float, limit: float) -> float:
    return latency_ms - limit if limit < float("inf") else 0.0


def _parameters(point: Any, way: str) -> dict[str, str]:
    return {
        "network": point.network.label, "image_size": str(point.image_size), "width": f"{point.width:g}",
        "precision": point.precision, "way": way, "backend": point.backend, "threads": str(point.threads),
    }  # fmt: skip
