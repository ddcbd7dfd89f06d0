"""Nothing is made twice, whoever made it, and whatever became of it."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass

import pytest

from tlopt.artifact import Artifact, seal
from tlopt.cards.card import Card
from tlopt.errors import OutputExistsError
from tlopt.preprocess import Preprocess
from tlopt.publishing import draft
from tlopt.search import once as module
from tlopt.search.once import digest_of, once, remembered


@dataclass(frozen=True, kw_only=True)
class Found:
    number: float
    pair: tuple[float, float]


@pytest.fixture
def make():
    """Make a small artifact, and count how often."""
    made = []

    def make(place):
        made.append(place)
        with draft(place, force=True) as scratch:
            (scratch / "model.onnx").write_bytes(b"graph")
            seal(
                scratch, Card(kind="onnx", model="a:b", precision="fp32", classes=("a",), preprocess=Preprocess(size=8))
            )
        return Artifact.load(place)

    make.made = made
    return make


def test_an_artifact_is_made_once(make, tmp_path):
    first = once(tmp_path / "one", make)
    assert once(tmp_path / "one", make).digest == first.digest
    assert len(make.made) == 1


def test_a_damaged_artifact_is_made_again(make, tmp_path, caplog):
    once(tmp_path / "one", make)
    (tmp_path / "one/model.onnx").write_bytes(b"damage")
    assert (once(tmp_path / "one", make).path / "model.onnx").read_bytes() == b"graph"
    assert "made again" in caplog.text


def test_what_another_run_makes_is_waited_for(make, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    begun, go_on = threading.Event(), threading.Event()

    def slow(place):
        with draft(place, force=True) as scratch:
            begun.set()
            go_on.wait(10)
            (scratch / "model.onnx").write_bytes(b"graph")
            seal(
                scratch, Card(kind="onnx", model="a:b", precision="fp32", classes=("a",), preprocess=Preprocess(size=8))
            )
        return Artifact.load(place)

    other = threading.Thread(target=once, args=(tmp_path / "one", slow))
    other.start()
    begun.wait(10)
    monkeypatch.setattr(module.time, "sleep", lambda _: go_on.set())
    found = once(tmp_path / "one", make)
    other.join()
    assert found.path == tmp_path / "one"


def test_what_a_killed_run_was_making_is_made_by_whoever_waited_for_it(make, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0)
    refusals = iter([OutputExistsError("Another run is making it at this moment.")])

    def once_refused(place):
        if (error := next(refusals, None)) is not None:
            raise error  # and its lock is free when that is looked at
        return make(place)

    assert once(tmp_path / "one", once_refused).path == tmp_path / "one"


def test_a_folder_of_somebody_else_is_left_alone(make, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/letter.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        once(tmp_path / "one", make)
    assert (tmp_path / "one/letter.txt").read_text() == "mine"
    shutil.rmtree(tmp_path / "one")
    once(tmp_path / "one", make)


def test_a_result_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return Found(number=float("nan"), pair=(1.0, 2.0))

    first = remembered(tmp_path / "a/b.json", Found, make)
    again = remembered(tmp_path / "a/b.json", Found, make)
    assert first.pair == again.pair == (1.0, 2.0)
    assert again.number != again.number
    assert len(made) == 1


@pytest.mark.parametrize("content", ["", "{", '{"number": 1}', '{"number": "a", "pair": [1, 2]}'])
def test_a_damaged_result_is_made_again(tmp_path, caplog, content):
    file = tmp_path / "b.json"
    file.write_text(content)
    found = remembered(file, Found, lambda: Found(number=1.0, pair=(1.0, 2.0)))
    assert found == remembered(file, Found, lambda: Found(number=2.0, pair=(1.0, 2.0)))
    assert "damaged" in caplog.text


def test_an_address_is_that_of_the_values():
    assert digest_of("a", 1, (2.0, None)) == digest_of("a", 1, [2.0, None])
    assert digest_of("a", 1) != digest_of("a", "1")
