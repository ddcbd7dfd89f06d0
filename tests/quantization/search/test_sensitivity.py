"""Blocks of a graph, and the search for those that have to stay float."""

from __future__ import annotations

import contextlib

import onnx
import pytest
from onnx import numpy_helper

from tlopt.backends import reduced_range
from tlopt.cards.details import BlockAlone
from tlopt.graphs.cleaning import clean
from tlopt.graphs.view import View
from tlopt.quantization.int8 import Scheme, calibrate
from tlopt.quantization.quantizers import minmax
from tlopt.quantization.search.blocks import blocks_of
from tlopt.quantization.search.sensitivity import Search, Trial, search
from tlopt.quantization.search.trials import Trials
from tlopt.sessions import open_session

RUNTIMES = ["onnxruntime", "openvino", "tensorrt"]


def test_every_node_is_in_one_block(family):
    found = [name for block in blocks_of(View(family)) for name in block.nodes]
    assert found == [node.name for node in family.graph.node]
    assert len({block.name for block in blocks_of(View(family))}) == len(blocks_of(View(family)))


@pytest.mark.parametrize(
    ("name", "convolutions"),
    [
        ("mobile", [1, 2, 1, 0]),
        ("residual", [1, 2, 3, 0]),
        ("squeeze", [1, 2, 1, 0]),
        ("dense", [1, 1, 1, 0]),
    ],
)
def test_a_residual_block_is_one_block(build, name, convolutions):
    model = build(name)
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert [sum(kinds[node] == "Conv" for node in block.nodes) for block in blocks_of(View(model))] == convolutions


def chain(b, *, bad: int, length: int = 4) -> onnx.ModelProto:
    """Residual blocks of two convolutions; inside of one of them a channel is a thousand times as large as the rest."""
    x = b.node("Relu", b.conv("images", 3, 8))
    for index in range(length):
        y = b.node("Relu", b.conv(x, 8, 8))
        y = b.conv(y, 8, 8)
        if index == bad:
            first, second = (node.input[1:3] for node in (b.nodes[-3], b.nodes[-1]))
            for constant in b.constants:
                values = numpy_helper.to_array(constant).copy()
                if constant.name in first:
                    values[0] *= 1000
                elif constant.name == second[0]:
                    values[:, 0] /= 1000
                constant.CopyFrom(numpy_helper.from_array(values, constant.name))
        x = b.node("Add", x, y)
    return clean(b.model(b.head(x, 8)))


@contextlib.contextmanager
def trials(model, runtime, inputs):
    nodes = {block.name: block.nodes for block in blocks_of(View(model))}
    scheme = Scheme(runtime=runtime, reduced=reduced_range(runtime, "auto"), choose=minmax.choose)
    calibrated = calibrate(View(model), scheme, [inputs])

    def opened(floats):
        runner = open_session(calibrated.graph([node for name in floats for node in nodes[name]]))
        return contextlib.nullcontext(lambda x: runner.run(None, {"images": x})[0])

    own = open_session(model)
    with Trials(
        float_=lambda x: own.run(None, {"images": x})[0],
        opened=opened,
        inputs=lambda: [inputs],
        labels=None,
        times=None,
    ) as made:
        yield list(nodes), made


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("bad", [0, 2])
def test_the_block_that_does_the_harm_is_found(builder, photos_like, runtime, bad):
    with trials(chain(builder, bad=bad), runtime, photos_like) as (names, made):
        # The labels of random weights are close calls: one or two of 32 flip in a sound int8 network, too.
        found = search(names, made.measure, 0.07, made.source_ms)
        assert found.tried[0].drop > 0.2
        assert found.met
        assert found.chosen.floats == (names[1 + bad],)
        assert found.chosen.snr_db > found.tried[0].snr_db + 10


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_float_block_does_no_harm_to_its_neighbours(family, runtime, photos_like):
    with trials(family, runtime, photos_like) as (names, made):
        start = made.measure(())
        for name in names:
            # A rounding less: whatever is left float, no other tensor may be rounded to a wider range.
            assert made.measure((name,)).snr_db > start.snr_db - 1.5
        assert made.measure(tuple(names)).noise < 1e-10


def fake(gains, costs, base=0.08):
    """Measure of a network whose blocks add up: what each takes from the drop, what each adds to the latency."""

    def measure(floats):
        drop = max(0.0, base - sum(gains[name] for name in floats))
        latency = 10.0 + sum(costs[name] for name in floats)
        return Trial(floats=floats, drop=drop, flips=drop, noise=drop + 1e-6, latency_ms={1: latency, 32: latency})

    return measure


def found_by(gains, costs, limit, **options) -> Search:
    return search(list(gains), fake(gains, costs, **options), limit, {1: 20.0, 32: 20.0})


def test_no_block_is_float_where_none_has_to_be():
    found = found_by({"a": 0.02}, {"a": 1.0}, 0.1)
    assert found.met
    assert found.chosen.floats == ()
    assert len(found.tried) == 1


def test_of_two_blocks_that_do_the_faster_one_is_taken():
    found = found_by({"a": 0.08, "b": 0.079, "c": 0.01}, {"a": 3.0, "b": 0.5, "c": 0.1}, 0.005)
    assert found.chosen.floats == ("b",)


def test_as_few_blocks_as_will_do_are_float():
    found = found_by({"a": 0.03, "b": 0.01, "c": 0.06, "d": 0.01}, {"a": 1.0, "b": 0.1, "c": 1.0, "d": 0.1}, 0.005)
    assert set(found.chosen.floats) == {"a", "c"}
    assert found.met


def test_a_block_that_another_makes_needless_goes_back():
    # The cheap block is taken first; the two after it do without.
    gains, costs = {"a": 0.02, "b": 0.04, "c": 0.04}, {"a": 0.001, "b": 2.0, "c": 2.0}
    found = found_by(gains, costs, 0.0)
    assert set(found.chosen.floats) == {"b", "c"}


def test_blocks_that_make_it_slower_than_float_are_left_out():
    found = found_by({"a": 0.08, "b": 0.02}, {"a": 15.0, "b": 1.0}, 0.005)
    assert not found.met
    assert found.chosen.floats == ("b",)


def test_the_account_says_why_and_what_it_costs():
    reasons, trade_off, alone = found_by({"a": 0.03, "b": 0.06}, {"a": 1.0, "b": 1.0}, 0.005).account()
    assert reasons["b"].endswith("+10.0 % of the latency")
    assert [len(row.float_blocks) for row in trade_off] == [0, 1, 2]
    assert trade_off[2].drop == 0
    assert alone["a"] == BlockAlone(gain_db=2.04, latency=0.1)
