"""A worker among doubles: its clock goes on only by what its steps say they take."""

from __future__ import annotations

import dataclasses
import math
import threading
from pathlib import Path

import pytest
from searches import asked, timed

from tlopt import progress
from tlopt.errors import ImagesError, StageError
from tlopt.progress import bar
from tlopt.search.features import Score
from tlopt.search.funnel import deciding, worker
from tlopt.search.funnel.clock import Clock
from tlopt.search.funnel.results import Judged, Made, Trained
from tlopt.search.funnel.worker import Worker
from tlopt.search.study import leases
from tlopt.search.study.leases import Leases, owner
from tlopt.search.study.storage import Entry


class Memory:
    """A storage that nobody else has."""

    def __init__(self):
        self.rows, self.notes = [], {}

    def entries(self):
        return list(self.rows)

    def begin(self, key, who):
        self.rows.append(Entry(number=len(self.rows), key=key, owner=who, state="held"))
        return len(self.rows) - 1

    def _set(self, number, **fields):
        self.rows[number] = dataclasses.replace(self.rows[number], **fields)

    def beat(self, number, count):
        self._set(number, beat=count)

    def finish(self, number, result, _seconds):
        self._set(number, state="done", result=dict(result))

    def give_up(self, number):
        if self.rows[number].state == "held":
            self._set(number, state="given up")

    def note(self, name, value):
        self.notes[name] = value


class Shop:
    """Makes nothing, and takes its time for it: seconds of an epoch, and of a compression."""

    def __init__(self, now, epoch_s=10.0, making_s=20.0):
        self.now, self.epoch_s, self.making_s = now, epoch_s, making_s
        self.work, self.folder, self.cache = Path("work"), None, _Cache()
        self.epochs, self.judged = {}, []

    def first(self, one):
        self.now[0] += 5
        return Trained(epochs=0, accuracy=0.6, loss=0.5, artifact=f"work/first-{one.key}")

    def train(self, one, epochs, question):
        records = self.epochs.setdefault(one.key, [])
        with bar("Training", epochs) as shown:
            while len(records) < epochs:
                if records and (word := question(records)) != "go on":
                    if word == "pause":
                        return Trained(epochs=len(records), accuracy=0.7, loss=0.3)
                    break
                self._spend(self.epoch_s, shown)
                records.append({"val_accuracy": 0.7, "val_loss": 0.3})
        return Trained(epochs=len(records), accuracy=0.8, loss=0.2, artifact=f"work/{one.key}")

    def mixed(self, _artifacts):
        raise StageError("They do not mix.")

    def make(self, variant, *, recovery):
        recovers = variant.point.width < 1
        with bar("Making", 2) as shown:
            self._spend(1.5 * self.epoch_s * recovery if recovers else 0, shown)
            self._spend(self.making_s, shown)
        return Made(artifact=f"work/{variant.made_key}")

    def _spend(self, seconds, shown):
        for _ in range(10):
            self.now[0] += seconds / 10
            shown.advance(0)

    def opened(self, artifact):
        return artifact

    def judge(self, _artifact, part, **_):
        self.now[0] += 1
        self.judged.append(part)
        return Judged(hits=80, images=100)


class _Cache:
    cache_dir, cache_gb = None, 0.0


class Time(list):
    """Seconds so far; and how long a whole network takes for an image in fp32."""

    whole_ms = 4.0


@pytest.fixture
def now(monkeypatch):
    """The time, which measuring takes two seconds of."""
    time = Time([0.0])

    def measured(*given, **_):
        time[0] += 2
        point = next(one for one in given if hasattr(one, "image_size"))
        latency_ms = time.whole_ms * point.width * (1.0 if point.precision == "fp32" else 0.5)
        return dataclasses.replace(timed(latency_ms), point=point.digest)

    def scored(network, size, folder, **_):
        time[0] += 3
        return Score(accuracy=0.5, interval=(0.4, 0.6), loss=0.5, images=100, folds=5, penalty=0.1)

    monkeypatch.setattr(worker, "time_untrained", measured)
    monkeypatch.setattr(worker, "time_artifact", measured)
    monkeypatch.setattr(worker, "frozen_accuracy", scored)
    monkeypatch.setattr(worker, "seen", lambda *_: None)
    return time


def hired(now, search, minutes, **given):
    shop = Shop(now, **given)
    clock = Clock(minutes=minutes, reserve_s=10.0, now=lambda: now[0])
    leases = Leases(storage=Memory(), who=owner("all"), clock=lambda: now[0])
    return Worker(
        asked=search, workshop=shop, leases=leases, clock=clock, sleep=lambda s: now.__setitem__(0, now[0] + s)
    )


def test_a_search_with_time_enough_tries_everything_and_judges_once(now):
    one = hired(now, asked(names=tuple("abcd"), sizes=(32, 64)), 60.0)
    found = deciding.decision(one.run())
    assert found.chosen is not None
    assert one.workshop.judged.count("test") == 1
    trained = [len(records) for records in one.workshop.epochs.values()]
    assert sorted(trained) == [2, 2, 2, 4, 8, 8]  # six of eight began, and half of them stopped at each rung
    assert now[0] < 60 * 60
    assert one.clock.overhead_s < 0.03 * one.clock.run_s


@pytest.mark.parametrize("minutes", [1.0, 2.0, 3.0, 5.0, 10.0])
def test_the_time_is_kept_and_there_is_an_answer(now, minutes):
    one = hired(now, asked(names=tuple("abcd"), sizes=(32, 64)), minutes)
    found = deciding.decision(one.run())
    assert now[0] <= 1.1 * 60 * minutes
    assert found.chosen is not None
    assert one.workshop.judged[-1] == "test"


@pytest.mark.parametrize("epoch_s", [1.0, 20.0, 120.0])
@pytest.mark.parametrize("minutes", [4.0, 10.0])
def test_where_only_pruned_networks_keep_to_the_budget_there_is_an_answer_in_time(now, minutes, epoch_s):
    now.whole_ms = 12.0
    one = hired(now, asked(sizes=(32, 64)), minutes, epoch_s=epoch_s)
    chosen = deciding.decision(one.run()).chosen
    assert chosen is not None
    assert chosen.variant.point.width == 0.7
    assert now[0] <= 1.05 * 60 * minutes


def test_what_cannot_be_done_is_written_down_and_the_search_goes_on(now, monkeypatch):
    search = asked(names=("a", "b"))

    def fails(network, *_, **__):
        if network.name == "timm:a":
            raise ImagesError("A class has one image.")
        return Score(accuracy=0.5, interval=(0.4, 0.6), loss=0.5, images=100, folds=5, penalty=0.1)

    monkeypatch.setattr(worker, "frozen_accuracy", fails)
    one = hired(now, search, 60.0)
    one.workshop.train = lambda *_: (_ for _ in ()).throw(StageError("The loss became nan."))
    situation = one.run()
    assert deciding.decision(situation).chosen.variant.base.what == "first"
    assert sorted(key.partition("/")[0] for key in situation.results.problems) == ["rank", "train", "train"]


def test_unusable_images_end_the_search_and_its_step_is_free_again(now, monkeypatch):
    one = hired(now, asked(), 60.0)
    one.workshop.first = lambda *_: (_ for _ in ()).throw(ImagesError("They are gone."))
    with pytest.raises(ImagesError):
        one.run()
    assert one.leases.storage.rows[-1].state == "given up"


def test_the_time_of_a_step_that_was_interrupted_counts(now):
    def interrupted(_):
        now[0] += 100
        raise KeyboardInterrupt

    one = hired(now, asked(), 60.0)
    one.workshop.first = interrupted
    with pytest.raises(KeyboardInterrupt):
        one.run()
    assert one.leases.storage.notes["spent_s"] == now[0] > 100


def test_the_time_of_a_step_is_noted_while_it_is_done(now, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_S", 0.001)
    one = hired(now, asked(), 60.0)
    noted = threading.Event()
    monkeypatch.setattr(one.leases.storage, "note", lambda _, seconds: noted.set() if seconds > 100 else None)

    def killed(_):
        now[0] += 100
        raise KeyboardInterrupt(noted.wait(timeout=60))

    one.workshop.first = killed
    with pytest.raises(KeyboardInterrupt, match="True"):
        one.run()


def test_progress_is_shown_as_before_when_the_search_is_over(now):
    before = progress.display.get()
    hired(now, asked(names=("a",)), 5.0).run()
    assert progress.display.get() is before


def test_a_network_that_only_noise_puts_over_the_budget_is_timed_again(now, monkeypatch):
    calls = []

    def doubtful(*given, **settings):
        calls.append(settings["again"])
        point = next(one for one in given if hasattr(one, "image_size"))
        spread = (1.8, 2.2) if len(calls) == 1 else (1.99, 2.01)
        found = timed(math.sqrt(spread[0] * spread[1]), noise=0.1)
        return dataclasses.replace(found, point=point.digest, sessions_ms=spread * 2)

    monkeypatch.setattr(worker, "time_artifact", doubtful)
    one = hired(now, asked(names=("a",), sizes=(32,), latency_ms=2.1), 60.0)
    one.run()
    assert calls[:2] == [False, True]
