"""Convolutions of one tensor that are summed become one, which computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from branched_nets import CHANNELS, Net

from tlopt.graphs.rewriting.parallel import without_branches


def answers(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    lengths = [2 if isinstance(length, str) else length for length in session.get_inputs()[0].shape]
    return session.run(None, {"images": np.random.default_rng(7).normal(size=lengths).astype(np.float32)})


def merged(model: onnx.ModelProto) -> list[str]:
    """Merge the branches of a graph, compare the answers, and return the kinds of its nodes."""
    made = without_branches(model)
    if made is not model:
        onnx.checker.check_model(made, full_check=True)
    for before, after in zip(answers(model), answers(made), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.abs(before).max())
    return [node.op_type for node in made.graph.node]


@pytest.mark.parametrize("groups", [1, 2, CHANNELS])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_branches_of_repvgg_become_one_convolution(groups: int, order: tuple[int, ...]) -> None:
    net = Net()
    first = net.node("Relu", "images")
    branches = [
        net.norm(net.conv(first, 3, 3, groups=groups, bias=False)),
        net.norm(net.conv(first, 1, 1, groups=groups, bias=False)),
        net.norm(first),
    ]
    a, b, c = (branches[i] for i in order)
    assert merged(net.model(net.node("Relu", net.node("Add", net.node("Add", a, b), c)))) == ["Relu", "Conv", "Relu"]


def test_several_branches_of_each_kernel_and_a_sum_of_many() -> None:
    net = Net()
    terms = [net.conv("images", *kernel) for kernel in ((3, 3), (1, 1), (3, 3), (1, 3), (3, 1))]
    assert merged(net.model(net.node("Sum", *terms))) == ["Conv"]


def test_strided_branches() -> None:
    net = Net()
    three = net.conv("images", 3, 3, strides=[2, 2])
    assert merged(net.model(net.node("Add", three, net.conv("images", 1, 1, strides=[2, 2])))) == ["Conv"]


def test_dilated_branches_and_those_that_lie_beside_the_middle() -> None:
    net = Net()
    wide = net.conv("images", 3, 3, dilations=[2, 2], pads=[2, 2, 2, 2])
    assert merged(net.model(net.node("Add", net.conv("images", 1, 1), wide))) == ["Conv"]
    net = Net()
    aside = net.conv("images", 2, 2, pads=[1, 0, 0, 1])
    assert merged(net.model(net.node("Add", net.conv("images", 3, 3), aside))) == ["Conv"]


@pytest.mark.parametrize("rank", [3, 5])
def test_images_of_other_ranks(rank: int) -> None:
    net = Net(rank=rank)
    both = net.conv("images", *[3] * (rank - 2)), net.conv("images", *[1] * (rank - 2))
    assert merged(net.model(net.node("Add", *both))) == ["Conv"]


def test_a_difference_its_scale_and_the_skip_around_both() -> None:
    # The token mixer of FastViT.
    net = Net()
    first = net.node("Relu", "images")
    mixed = net.node("Add", net.conv(first, 3, 3, groups=CHANNELS), net.conv(first, 1, 1, groups=CHANNELS))
    change = net.node("Sub", mixed, net.norm(first))
    scaled = net.node("Mul", net.constant(CHANNELS, 1, 1), change)
    assert merged(net.model(net.node("Add", first, scaled))) == ["Relu", "Conv"]


def test_what_else_is_added_stays() -> None:
    net = Net()
    first = net.node("Relu", "images")
    other = net.node("Sigmoid", "images")
    inner = net.node("Sub", other, net.conv(first, 3, 3))
    assert merged(net.model(net.node("Sub", inner, net.conv(first, 1, 1)))) == ["Relu", "Sigmoid", "Conv", "Add"]


def test_two_tensors_with_branches_each() -> None:
    net = Net()
    first, second = net.node("Relu", "images"), net.node("Sigmoid", "images")
    terms = [net.conv(data, k, k) for k in (1, 3) for data in (first, second)]
    kinds = merged(net.model(net.node("Sum", *terms)))
    assert sorted(kinds) == ["Add", "Conv", "Conv", "Relu", "Sigmoid"]


def test_a_skip_around_one_convolution_stays() -> None:
    net = Net()
    first = net.node("Relu", "images")
    assert merged(net.model(net.node("Add", first, net.conv(first, 3, 3)))) == ["Relu", "Conv", "Add"]


def test_branches_that_would_need_more_work_stay() -> None:
    net = Net()
    both = net.conv("images", 1, 7), net.conv("images", 7, 1)
    assert merged(net.model(net.node("Add", *both))) == ["Conv", "Conv", "Add"]


def test_branches_of_other_groups_strides_or_padding_stay() -> None:
    net = Net()
    groups = net.node("Add", net.conv("images", 3, 3), net.conv("images", 3, 3, groups=2))
    # One answer here is broadcast along the other.
    one = net.node("GlobalAveragePool", "images")
    small = net.node("Add", net.conv(one, 3, 3), net.conv(one, 1, 1, pads=[1, 1, 1, 1]))
    same = net.node("Add", net.conv("images", 3, 3), net.conv("images", 1, 1, pads=[0] * 4, auto_pad="NOTSET"))
    # Where the stride is 2, the size of the image decides how it is padded.
    how = {"auto_pad": "SAME_UPPER", "strides": [2, 2]}
    automatic = net.node("Add", *(net.node("Conv", "images", net.constant(6, 6, k, k), **how) for k in (1, 3)))
    kinds = merged(net.model(groups, small, same, automatic))
    assert kinds.count("Conv") == 7


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("sizes", [(3, 1), (3, 2), (4, 1), (4, 3)])
def test_branches_that_are_padded_automatically(automatic: str, sizes: tuple[int, int]) -> None:
    sizes = (sizes[0], sizes[0]) if automatic == "VALID" else sizes  # which cuts off as much as the kernel is large
    net = Net()
    terms = [net.node("Conv", "images", net.constant(6, 6, k, k), auto_pad=automatic) for k in sizes]
    assert merged(net.model(net.node("Sum", *terms))) == ["Conv"]


@pytest.mark.parametrize("what", ["branch", "inner sum"])
def test_what_something_else_reads_or_the_graph_gives_stays(what: str) -> None:
    net = Net()
    three, one = net.conv("images", 3, 3), net.conv("images", 1, 1)
    if what == "branch":
        assert merged(net.model(net.node("Add", three, one), net.node("Relu", one))).count("Conv") == 2
        return
    inner = net.node("Add", three, one)
    outer = net.node("Add", inner, net.norm("images"))
    assert merged(net.model(inner, outer)) == ["Conv", "BatchNormalization", "Add"]


def test_a_branch_that_is_added_twice_stays_as_it_is() -> None:
    net = Net()
    three = net.conv("images", 3, 3)
    assert merged(net.model(net.node("Add", three, three))) == ["Conv", "Add"]


def test_weights_that_two_blocks_share() -> None:
    net = Net()
    kernel, small = net.constant(CHANNELS, CHANNELS, 3, 3), net.constant(CHANNELS, CHANNELS, 1, 1)
    data = "images"
    for _ in range(2):
        three = net.node("Conv", data, kernel, pads=[1] * 4)
        data = net.node("Relu", net.node("Add", three, net.node("Conv", data, small)))
    assert merged(net.model(data)) == ["Conv", "Relu", "Conv", "Relu"]


@pytest.mark.parametrize("after", ["Div", "Mul", "Neg", "Identity", "norms"])
def test_branches_behind_which_constants_are_folded(after: str) -> None:
    net = Net()
    terms = []
    for size in (3, 1):
        term = net.conv("images", size, size)
        if after == "norms":
            term = net.norm(net.norm(term))
        elif after in ("Neg", "Identity"):
            term = net.node(after, term)
        else:
            scale = net.constant(CHANNELS, 1, 1, low=0.5)
            term = net.node(after, *((scale, term) if after == "Mul" else (term, scale)))
        terms.append(term)
    assert merged(net.model(net.node("Add", *terms))) == ["Conv"]


def test_long_chains_of_sums() -> None:
    net = Net()
    total = net.node("Relu", "images")
    for _ in range(1500):
        total = net.node("Add", total, net.node("Relu", "images"))
    model = net.model(total)
    assert without_branches(model) is model


def test_a_graph_without_branches_is_returned_as_it_is() -> None:
    net = Net()
    first = net.node("Relu", net.conv("images", 3, 3))
    model = net.model(net.node("Add", first, net.norm(net.conv(first, 3, 3))))
    assert without_branches(model) is model


@pytest.mark.parametrize("seed", range(12))
def test_random_sums(seed: int) -> None:
    net = Net(seed)
    data = net.node("Relu", "images")
    for _ in range(3):
        terms = []
        for _ in range(net.random.integers(2, 6)):
            kind = net.random.integers(4)
            size, groups = int(net.random.choice([1, 3, 5])), int(net.random.choice([1, CHANNELS]))
            term = net.conv(data, size, size, groups=groups) if kind < 2 else net.norm(data) if kind == 2 else data
            terms.append(net.norm(term) if kind == 0 else term)
        total = terms[0]
        for term in terms[1:]:
            total = net.node(str(net.random.choice(["Add", "Sub"])), *net.random.permutation([total, term]).tolist())
        data = net.node("Tanh", total)
    merged(net.model(data))
