"""What every criterion must hold to."""

import inspect

import pytest
import torch
from torch import nn

from tlopt import registry
from tlopt.errors import PluginError
from tlopt.pruning import analysis, criteria, gates
from tlopt.pruning.channels import ChannelGroup

SIZE = 8


def network():
    """A residual block, a grouped and a depthwise convolution, a layer without batch norm."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            self.body = nn.Sequential(
                nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, padding=1, groups=12),
                nn.Conv2d(12, 12, 1, groups=2), nn.ReLU(), nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8),
            )  # fmt: skip
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            x = self.stem(x)
            return self.head((x + self.body(x)).mean((2, 3)))

    torch.manual_seed(0)
    net = Net().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 1)  # as built they are all 1
    return net


def groups(ranking, seed=0):
    model = network()
    found = analysis.analyze(model, SIZE).groups
    if not ranking.NEEDS:
        return model, found
    random = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(6, 3, SIZE, SIZE, generator=random), torch.arange(6) % 4
    return model, gates.measure(model, found, [(images, labels)], ranking.NEEDS, seed=seed)


@pytest.fixture(params=registry.names("criteria"))
def ranking(request):
    return criteria.load(request.param)


def test_a_criterion_says_what_it_needs(ranking):
    assert ranking.__doc__
    assert ranking.NEEDS in ("", "labels", "outputs")
    assert isinstance(ranking.COMPARABLE, bool)
    assert list(inspect.signature(ranking.score).parameters) == ["group"]


def test_each_unit_gets_a_finite_score_of_at_least_zero(ranking):
    _, found = groups(ranking)
    assert len(found) > 2
    for group in found:
        score = ranking.score(group)
        assert isinstance(group, ChannelGroup)
        assert score.shape == (group.units,)
        assert score.dtype == torch.float32
        assert not score.requires_grad
        assert torch.isfinite(score).all()
        assert (score >= 0).all()
        assert len(score.unique()) > 1


def test_scores_are_the_same_for_the_same_input(ranking):
    first, second = (groups(ranking)[1] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(ranking.score(a), ranking.score(b))


def test_scoring_changes_no_weight(ranking):
    model, found = groups(ranking)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for group in found:
        ranking.score(group)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_unknown_criterion_gets_the_close_match():
    with pytest.raises(PluginError, match="Unknown criterion: 'magnitud'") as caught:
        criteria.load("magnitud")
    assert "magnitude" in caught.value.hint
