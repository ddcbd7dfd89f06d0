"""How fast a network would be is told without training, and each step of it is made once."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tlopt.errors import StageError
from tlopt.search import timed as timing
from tlopt.search import untrained as module
from tlopt.search.space import Network, Point, network
from tlopt.search.timed import SESSIONS, Timed, time_artifact, time_untrained
from tlopt.search.untrained import untrained

TINY = Network(name="tiny_models:cnn")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def point(**changes) -> Point:
    return Point(**{"network": TINY, "image_size": 32, "threads": 1, **changes})


def timed(one: Point, work, **changes) -> Timed:
    return time_untrained(one, **{"classes": 5, "work": work, "seconds": 0.02, "memory": False, **changes})


@pytest.mark.slow
def test_a_network_is_timed_without_training(work):
    found = timed(point(), work)
    assert found.problem == ""
    assert (found.backend, found.batch, len(found.sessions_ms)) == ("onnxruntime:cpu", 1, SESSIONS)
    assert found.interval_ms[0] < found.latency_ms < found.interval_ms[1]
    assert min(found.sessions_ms) <= found.latency_ms <= max(found.sessions_ms)
    assert found.size_mb > 0
    assert found.memory_mb is None


@pytest.mark.slow
def test_the_graph_has_the_classes_the_size_and_the_precision(work):
    for precision, card in (("fp32", "fp32"), ("int8", "int8"), ("qat", "int8"), ("fp16", "fp16")):
        made = untrained(point(image_size=48, precision=precision), classes=5, work=work)
        assert (made.card.precision, made.card.preprocess.size, len(made.card.classes)) == (card, 48, 5)


@pytest.mark.slow
def test_a_graph_of_another_size_has_the_layers_of_one_that_is_exported(work, tmp_path, monkeypatch):
    """A graph that got its size later answers as one that was exported with it."""
    import onnxruntime

    inputs = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    found = []
    for place, stride in ((work, 32), (tmp_path, 1000)):  # nothing is a multiple of a thousand
        monkeypatch.setattr(module, "_STRIDE", stride)
        made = untrained(point(image_size=64), classes=5, work=place)
        assert made.card.preprocess.size == 64
        found.append(onnxruntime.InferenceSession(made.payload(".onnx")).run(None, {"images": inputs})[0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_network_that_takes_one_size_is_exported_at_it(work):
    flat = Network(name="odd_sizes:flat")
    made = untrained(point(network=flat, image_size=64), classes=5, work=work)
    assert made.card.preprocess.size == 64
    assert timed(point(network=flat, image_size=96), work).problem


def test_int8_is_timed_with_integers(work):
    import onnx

    made = untrained(point(precision="int8"), classes=5, work=work)
    operators = {node.op_type for node in onnx.load(made.payload(".onnx")).graph.node}
    assert "QuantizeLinear" in operators
    assert timed(point(precision="int8"), work).problem == ""


@pytest.mark.slow
def test_a_narrower_network_has_fewer_weights(work):
    whole, narrow = (untrained(point(width=width), classes=5, work=work) for width in (1.0, 0.5))
    assert narrow.size_mb < whole.size_mb
    assert narrow.card.onnx.network.macs.after <= 0.6 * narrow.card.onnx.network.macs.before


def test_nothing_is_made_or_measured_twice(work, monkeypatch):
    first = timed(point(precision="int8"), work)
    monkeypatch.setattr(timing, "bench", None)
    monkeypatch.setattr(timing, "untrained", None)
    assert timed(point(precision="int8"), work) == first
    monkeypatch.undo()
    monkeypatch.setattr(module, "new_network", None)
    monkeypatch.setattr(module, "cast_graph", None)
    untrained(point(precision="int8"), classes=5, work=work)
    untrained(point(precision="qat"), classes=5, work=work)


def test_another_machine_measures_again(work, monkeypatch):
    first = timed(point(), work)
    monkeypatch.setattr(timing, "fingerprint_digest", lambda: "another")
    assert timed(point(), work).machine == "another" != first.machine


def test_what_cannot_run_here_says_why(work):
    found = timed(point(precision="int8", backend="torch"), work)
    assert "fp32 only" in found.problem
    assert math.isnan(found.latency_ms)
    assert timed(point(precision="int8", backend="torch"), work).problem == found.problem


def test_torch_is_timed_as_it_is(work):
    assert timed(point(backend="torch"), work).backend == "torch:cpu"


def test_a_network_that_is_not_there_says_why(work):
    found = timed(point(network=Network(name="pip:efficientnet_lite9")), work)
    assert "efficientnet_lite9" in found.problem


@pytest.mark.slow
def test_artifacts_are_timed_too(tuned, exported, work):
    for artifact in (tuned, exported):
        one = point(network=network(artifact.path), precision="int8")
        made = untrained(one, classes=3, work=work)
        assert made.card.classes == artifact.card.classes
        assert made.card.precision == "int8"
    narrow = untrained(point(network=network(tuned.path), width=0.5), classes=3, work=work)
    assert narrow.size_mb < exported.size_mb


def test_the_shipped_file_is_timed_by_the_same_clock(exported, work):
    one = point(network=network(exported.path))
    first = time_artifact(exported, one, work=work, seconds=0.02, memory=False)
    assert time_artifact(exported, one, work=work, seconds=0.02, memory=False) == first
    again = time_artifact(exported, one, work=work, seconds=0.02, memory=False, again=True)
    assert again.sessions_ms != first.sessions_ms


def test_two_measurements_are_one_over_the_sessions_of_both():
    first = Timed(
        point="", machine="", backend="onnxruntime:cpu", batch=1, latency_ms=2.0, interval_ms=(1.75, 2.26),
        sessions_ms=(1.9, 2.0, 2.1), p99_ms=3.0, images_per_s=500.0, seconds=1.0, notes=("It was hot.",),
    )  # fmt: skip
    second = dataclasses.replace(first, sessions_ms=(1.95, 2.0, 2.05), p99_ms=9.0, images_per_s=400.0)
    both = first.and_again(second)
    assert both.sessions_ms == (1.9, 2.0, 2.1, 1.95, 2.0, 2.05)
    assert both.latency_ms == pytest.approx(math.exp(np.log(both.sessions_ms).mean()))
    assert both.interval_ms[0] < both.latency_ms < both.interval_ms[1]
    assert both.interval_ms[1] / both.interval_ms[0] < 1.09  # of the three sessions alone, 1.28
    assert (both.p99_ms, both.notes, both.seconds) == (9.0, ("It was hot.",), 2.0)


def test_notes_on_a_timing_call_what_was_timed_as_a_person_does(exported, work, monkeypatch):
    """Its folder has an address for a name."""
    given = []

    def bench(_artifacts, *, names, **_):
        given.extend(names)
        raise StageError("It does not run.")

    monkeypatch.setattr(timing, "bench", bench)
    one = point(precision="int8", width=0.5)
    assert time_artifact(exported, one, work=work, again=True).problem == "It does not run."
    assert given == ["tiny_models:cnn 32 px 50 % wide int8"]
