import pytest
import torch
from torch import nn

from tlopt.pruning import analysis
from tlopt.pruning.channels import ChannelGroup
from tlopt.pruning.criteria import bn_scale, logits, magnitude, random, taylor


@pytest.fixture
def group():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 2),
    )
    nn.init.uniform_(model[1].weight, -1, 1)
    found = analysis.analyze(model.eval(), 8).groups
    return model, next(g for g in found if g.name == "0")


def test_magnitude_sums_the_squares_of_what_makes_and_what_takes_in_a_channel(group):
    model, group = group
    expected = model[0].weight.square().sum((1, 2, 3)) + model[2].weight.square().sum((0, 2, 3))
    torch.testing.assert_close(magnitude.score(group), expected.detach())


def test_bn_scale_is_the_absolute_scale(group):
    model, group = group
    torch.testing.assert_close(bn_scale.score(group), model[1].weight.detach().abs())


def test_bn_scale_without_a_norm_falls_back_to_magnitude(group):
    model, _ = group
    last = next(g for g in analysis.analyze(model, 8).groups if g.name == "2")
    assert torch.equal(bn_scale.score(last), magnitude.score(last))


def test_gate_criteria_take_the_mean_over_images():
    gates = torch.tensor([[1.0, -2.0], [-3.0, 2.0]])
    group = ChannelGroup(name="a", units=2, width=2, members=(), gates=gates)
    assert taylor.score(group).tolist() == [2.0, 2.0]
    assert logits.score(group).tolist() == [5.0, 4.0]


def test_random_depends_on_the_group_alone():
    one, same, other = (ChannelGroup(name=name, units=5, width=5, members=()) for name in ("a", "a", "b"))
    assert torch.equal(random.score(one), random.score(same))
    assert not torch.equal(random.score(one), random.score(other))
