import torch
from torch import nn

from tlopt.pruning import analysis, widths


def two_layers():
    """Two convolutions; a channel of the first costs (3 + 32) x 16 multiply-adds, of the second (64 x 16 + 2)."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 1), nn.Conv2d(64, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2)
    )
    return analysis.analyze(model.eval(), 4)


def macs(layer, removed):
    return layer.macs(removed)


def test_the_least_important_units_go_and_the_budget_is_met():
    network = two_layers()
    scores = {"0": torch.arange(64.0), "1": torch.full((32,), 1e9)}
    kept = widths.choose(network, scores, macs, 0.5 * network.macs(), multiple=8)
    assert set(kept) == {"0"}
    stays = kept["0"]
    gone = int((~stays).sum())
    assert not stays[:gone].any()
    assert stays[gone:].all()
    assert network.macs({"0": gone}) <= 0.5 * network.macs() < network.macs({"0": gone - 8})


def test_equal_harm_goes_where_it_saves_more():
    network = two_layers()
    scores = {"0": torch.ones(64), "1": torch.ones(32)}
    kept = widths.choose(network, scores, macs, network.macs() - 1, multiple=8)
    # A channel of the second layer saves 1,026 multiply-adds, one of the first 560.
    assert widths.removed(kept) == {"1": 8}


def test_widths_stay_multiples():
    network = two_layers()
    scores = {"0": torch.rand(64), "1": torch.rand(32)}
    kept = widths.choose(network, scores, macs, 0.3 * network.macs(), multiple=16)
    assert all(int(stays.sum()) % 16 == 0 for stays in kept.values())


def test_a_step_without_gain_is_looked_past():
    def cost(layer, removed):
        # Time falls only at whole 32 channels.
        return float(-(-layer.widths(removed)[1] // 32))

    network = two_layers()
    scores = {"0": torch.ones(64), "1": torch.ones(32)}
    kept = widths.choose(network, scores, cost, 3, multiple=8)
    assert widths.removed(kept) == {"0": 32}


def test_a_tenth_of_each_group_stays_whatever_the_budget():
    network = two_layers()
    scores = {"0": torch.ones(64), "1": torch.ones(32)}
    kept = widths.choose(network, scores, macs, 0, multiple=1)
    assert {name: int(stays.sum()) for name, stays in kept.items()} == {"0": 6, "1": 3}


def test_what_always_stays_may_be_told():
    network = two_layers()
    scores = {"0": torch.ones(64), "1": torch.ones(32)}
    kept = widths.choose(network, scores, macs, 0, multiple=1, least={"0": 32, "1": 1})
    assert {name: int(stays.sum()) for name, stays in kept.items()} == {"0": 32, "1": 1}


def test_nothing_goes_when_the_budget_is_met_already():
    network = two_layers()
    scores = {"0": torch.ones(64), "1": torch.ones(32)}
    assert widths.choose(network, scores, macs, network.macs(), multiple=8) == {}


def test_an_even_cut_takes_the_same_share_everywhere():
    network = two_layers()
    scores = {"0": torch.ones(64), "1": torch.full((32,), 1e9)}
    kept = widths.choose(network, scores, macs, 0.3 * network.macs(), multiple=8, even=True)
    assert widths.removed(kept) == {"0": 32, "1": 16}
