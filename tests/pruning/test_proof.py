import pytest
import torch
from torch import nn
from torch.nn import functional

from tlopt import sources
from tlopt.errors import StageError
from tlopt.pruning import analysis, channels, proof, widths

SIZE = 16


class Splits(nn.Module):
    """Two blocks; the forward pass of the second knows its width, as in MixNet."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.wide = nn.Conv2d(16, 12, 1)
        self.left, self.right = nn.Conv2d(6, 8, 3, 1, 1), nn.Conv2d(6, 8, 3, 1, 1)
        self.fc = nn.Linear(16, 3)

    def forward(self, images):
        left, right = functional.relu(self.wide(functional.relu(self.stem(images)))).split([6, 6], 1)
        return self.fc(torch.cat([self.left(left), self.right(right)], 1).relu().mean((2, 3)))


class Shifted(nn.Module):
    """A group whose channels come in another order than a tracer sees."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 8, 3, 1, 1)
        self.fc = nn.Linear(8, 3)

    def forward(self, images):
        return self.fc(self.body(self.stem(images).relu().flip(1)).relu().mean((2, 3)))


class Shuffled(nn.Module):
    """Two layers have to be equally wide: their channels are shuffled and halved again, as in ShuffleNet."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 12, 1), nn.Conv2d(16, 12, 1)
        self.next, self.fc = nn.Conv2d(12, 12, 1), nn.Linear(24, 3)

    def forward(self, images):
        features = self.stem(images).relu()
        both = torch.stack([self.left(features), self.right(features)], 2).relu().flatten(1, 2)
        first, second = both.chunk(2, 1)
        return self.fc(torch.cat([first, self.next(second)], 1).mean((2, 3)))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_layers_that_have_to_be_equally_wide_stay_whole(share):
    torch.manual_seed(0)
    net = Shuffled().eval()
    network = analysis.analyze(net, SIZE)
    kept = {g.name: torch.arange(g.units) >= int(g.units * share) + i % 2 for i, g in enumerate(network.groups)}
    channels.cut(network.groups, kept, net)
    assert net(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, 3)
    assert any(name.startswith("stem") for name in kept)


@pytest.mark.parametrize("kind", [Splits, Shifted])
def test_what_a_forward_pass_knows_stays_whole(kind):
    torch.manual_seed(0)
    net = kind().eval()
    network = analysis.analyze(net, SIZE)
    broken = {"Splits": "wide", "Shifted": "stem"}[kind.__name__]
    assert broken in network.whole
    names = {group.name for group in network.groups}
    assert names
    assert broken not in names
    channels.cut(network.groups, {group.name: torch.arange(group.units) > 0 for group in network.groups}, net)
    assert net(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, 3)


def test_a_sound_network_is_proved_by_two_cuts(monkeypatch):
    cuts = []
    cut = channels.cut
    monkeypatch.setattr(channels, "cut", lambda *given: (cuts.append(1), cut(*given)))
    network = analysis.analyze(sources.build("timm:test_efficientnet", classes=3, size=32).eval(), 32)
    assert len(cuts) == 2
    assert network.whole == {}


def test_trials_are_bounded_and_what_was_not_tried_is_told(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(proof, "_TRIALS", 1)
    network = analysis.analyze(Shifted().eval(), SIZE)
    assert network.groups == ()
    assert proof.UNTRIED in network.whole.values()


def test_what_cannot_be_traced_is_an_error_in_plain_words(monkeypatch):
    def graph(*_):
        raise ZeroDivisionError("integer modulo by zero")

    monkeypatch.setattr(analysis.dependencies, "Graph", graph)
    with pytest.raises(StageError, match="channels of Splits cannot be followed from layer to layer: integer modulo"):
        analysis.analyze(Splits().eval(), SIZE)


def test_no_step_back_would_keep_to_the_budget():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 48, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(48, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    ).eval()  # fmt: skip
    network = analysis.analyze(net, 32)
    # Scores that make the greedy choice take the wide layer last, and more of it than is needed.
    scores = {group.name: torch.rand(group.units) * (100 if group.width == 48 else 0.1) for group in network.groups}
    budget = 0.8 * network.macs()

    def macs(layer, removed):
        return layer.macs(removed)

    kept = widths.choose(network, scores, macs, budget, multiple=8)
    removed = widths.removed(kept)
    assert network.macs(removed) <= budget
    for name, count in removed.items():
        assert network.macs({**removed, name: count - 8}) > budget
