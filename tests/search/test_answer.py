"""The report of a search says what was decided on."""

from types import SimpleNamespace

import pytest
from searches import Known, asked, timed

from tlopt.cards.card import plain
from tlopt.search import answer, outcome
from tlopt.search.answer import report_of
from tlopt.search.funnel import deciding, field
from tlopt.search.funnel.clock import Clock
from tlopt.search.funnel.variants import bases, of_base


def measured():
    """Return what is known after two variants of one network were measured, and their keys."""
    search = asked(names=("a",), latency_ms=5.0)
    known = Known(search).time("a", 3.0).rank("a", 0.9).train("a", 8, 0.9, artifact="x")
    now = known.now()
    (standing,), (base,) = field.standings(search, now.results), bases(search, now.results, now.contenders)
    keys = {one.point.precision: one.key for one in of_base(search, now.results, standing, base)}
    for precision, key in keys.items():
        result = {"hits": 90 if precision == "fp32" else 80, "images": 100}
        known.done(f"measure/{key}", {**result, "timed": plain(timed(3.0))})
    return known, keys


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_too_slow_the_second_time_is_shown_as_too_slow(fails):
    known, keys = measured()
    assert deciding.decision(known.now()).chosen.variant.key == keys["fp32"]
    again = {"problem": "it does not run any more"} if fails else plain(timed(9.0))
    known.done(f"again/{keys['fp32']}", again)
    now = known.now()
    assert deciding.decision(now).chosen.variant.key == keys["int8"]
    clock = Clock(minutes=1.0)
    outcomes = {row["precision"]: row["outcome"] for row in report_of(now, clock, "s", {}).rows if "accuracy" in row}
    assert outcomes["int8"] == "the answer"
    assert outcomes["fp32"].startswith("over: ")
    assert ("run any more" in outcomes["fp32"]) is fails


def test_the_picture_and_the_kept_front_go_by_the_second_timing_of_the_answer(tmp_path, monkeypatch):
    known, keys = measured()
    known.done(f"again/{keys['fp32']}", plain(timed(4.0)))
    variants = deciding.variants(known.now())
    for precision, key in keys.items():
        known.done(f"make/{variants[key].made_key}", {"artifact": precision})
    kept = []
    monkeypatch.setattr(outcome, "Artifact", SimpleNamespace(load=lambda path: path.name))
    monkeypatch.setattr(outcome, "copy_artifact", lambda made, place: kept.append((made, place.parent.name)))
    outcome.keep_front(tmp_path, known.now())
    assert sorted(kept) == [("fp32", "pareto"), ("int8", "pareto")]
    report = report_of(known.now(), Clock(minutes=1.0), "s", {})
    drawn = {one.precision: one.latency_ms for one in answer._points(known.now()) if not one.aside}
    assert drawn == {row["precision"]: row["latency_ms"] for row in report.rows} == {"fp32": 4.0, "int8": 3.0}


def test_what_does_not_run_any_more_is_not_kept(tmp_path, monkeypatch):
    known, keys = measured()
    known.done(f"again/{keys['fp32']}", {"problem": "it does not run any more"})
    known.done(f"make/{deciding.variants(known.now())[keys['int8']].made_key}", {"artifact": "int8"})
    kept = []
    monkeypatch.setattr(outcome, "Artifact", SimpleNamespace(load=lambda path: path.name))
    monkeypatch.setattr(outcome, "copy_artifact", lambda made, _: kept.append(made))
    outcome.keep_front(tmp_path, known.now())
    assert kept == ["int8"]


def test_where_nothing_was_timed_nothing_is_said_of_the_budget():
    search = asked(names=("a",), latency_ms=5.0)
    known = Known(search, left_s=0.0)
    report = report_of(known.now(), Clock(minutes=1.0), "s", {})
    assert report.title == "No answer"
    assert report.breaches == ("No network was timed before the time was over.",)


def test_steps_that_failed_are_not_a_matter_of_time():
    search = asked(names=("a",), latency_ms=5.0)
    known = Known(search).time("a", 3.0)
    assert deciding.decision(known.now()).words == ("Nothing was ready to be measured: the time was over.",)
    known.done("first/a", {"problem": "The images have gone."})
    assert deciding.decision(known.now()).words == ("Nothing was ready to be measured: steps failed.",)
