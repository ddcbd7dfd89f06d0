import copy

import pytest
import torch
from cut_nets import thinned, zeroed
from torch import nn

from tlopt import sources
from tlopt.errors import StageError
from tlopt.networks import weights
from tlopt.pruning import analysis, channels

# The smallest member of each family, and whether zeroing a channel's weights where it is taken in
# does exactly what removing it does: not so where a layer norm spans the channels.
FAMILIES = {
    "resnet18": True,
    "mobilenetv2_035": True,
    "mobilenetv3_small_050": True,
    "tf_efficientnet_lite0": True,
    "convnext_atto": False,
    "regnetx_002": True,
    "regnety_002": True,
    "densenet121?block_config=(3, 3, 3, 3)": True,
    "vgg11_bn?mlp_ratio=0.0625": True,
}
SIZE = 32


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_pruned_runs_and_is_restored(name, tmp_path):
    torch.manual_seed(0)
    model = sources.build(f"timm:{name}", classes=5, size=SIZE).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    network = analysis.analyze(model, SIZE)
    kept = thinned(network, 0.3)
    expected = zeroed(model, network, kept)
    predicted = network.macs({group: int((~stays).sum()) for group, stays in kept.items()})
    channels.cut(network.groups, kept, model)
    with torch.no_grad():
        logits = model(images)
        if FAMILIES[name]:
            # Only the order of summation differs.
            torch.testing.assert_close(logits, expected(images), rtol=1e-4, atol=1e-5)
    assert logits.shape == (2, 5)
    again = analysis.analyze(model, SIZE)
    assert again.macs() == predicted < 0.75 * network.macs()
    assert len(again.groups) == len(network.groups)
    groups = weights.save(model, tmp_path)
    fresh = sources.build(f"timm:{name}", classes=5, size=SIZE)
    restored = weights.restore(fresh, weights.read(tmp_path / weights.FILE), groups=groups, where="it")
    with torch.no_grad():
        assert torch.equal(restored.eval()(images), logits)


class Net(nn.Module):
    """Two convolutions, a grouped one between them, and a classifier on flattened pixels."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.c = nn.Conv2d(12, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 4, 3)

    def forward(self, x):
        return self.head(self.norm(self.c(self.b(self.a(x)))).flatten(1))


def test_a_unit_under_a_grouped_convolution_is_one_channel_of_each_of_its_groups():
    network = analysis.analyze(Net().eval(), 2)
    groups = {group.name: group for group in network.groups}
    assert set(groups) == {"a", "b", "c"}
    assert (groups["a"].units, groups["a"].channels_per_unit) == (4, 2)
    taken = next(member for member in groups["a"].members if member.name == "b")
    assert taken.role == "in"
    assert taken.positions.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_a_flattened_channel_keeps_its_pixels_together():
    network = analysis.analyze(Net().eval(), 2)
    group = next(group for group in network.groups if group.name == "c")
    head = next(member for member in group.members if member.name == "head")
    assert head.positions.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_a_pruned_grouped_convolution_computes_what_the_zeroed_one_does():
    torch.manual_seed(0)
    model = Net().eval()
    network = analysis.analyze(model, 2)
    kept = thinned(network, 0.5)
    expected = zeroed(model, network, kept)
    channels.cut(network.groups, kept, model)
    images = torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(model(images), expected(images))
    assert (model.b.in_channels, model.b.out_channels, model.b.groups) == (4, 6, 2)


def test_neither_the_image_nor_the_classes_can_be_pruned():
    model = Net().eval()
    for group in analysis.analyze(model, 2).groups:
        for member in group.members:
            assert (member.name, member.role) not in {("a", "in"), ("head", "out")}


def test_multiply_adds_are_counted_by_hand():
    network = analysis.analyze(Net().eval(), 2)
    by_hand = 4 * (3 * 8 * 9 + 8 // 2 * 12 * 9 + 12 * 4) + 16 * 3
    assert network.macs() == analysis.multiply_adds(Net().eval(), 2) == by_hand
    # A unit of a is two of its channels: one in each group of b.
    assert network.macs({"a": 1}) == by_hand - 4 * (3 * 2 * 9 + 1 * 12 * 9)


def test_a_frozen_network_is_analyzed_and_left_as_it_was():
    model = Net().eval().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    assert len(analysis.analyze(model, 2).groups) == 3
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_network_without_layers_is_refused():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x.mean((2, 3)) * self.scale

    with pytest.raises(StageError, match="no convolution and no linear layer"):
        analysis.analyze(Mean(), 4)
