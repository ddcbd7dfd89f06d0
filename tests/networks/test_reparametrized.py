import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from tlopt.networks import reparametrized

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


def network(normalized):
    torch.manual_seed(0)
    layers = [normalized(nn.Conv2d(3, 24, 3)), nn.ReLU(), normalized(nn.ConvTranspose2d(24, 4, 2)), nn.Flatten()]
    return nn.Sequential(*layers, normalized(nn.Linear(4 * 7 * 7, 3)))


@pytest.mark.parametrize("normalized", [weight_norm, spectral_norm])
def test_an_old_norm_of_weights_becomes_one_that_can_be_copied_and_computes_the_same(normalized):
    model, images = network(normalized), torch.randn(2, 3, 8, 8)
    model.train()(images)
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wanted = model.eval()(images).detach()
    random = torch.get_rng_state()
    assert reparametrized.renew(model) is model
    assert torch.equal(torch.get_rng_state(), random)
    model.train()(images).sum().backward()
    copied = copy.deepcopy(model).eval()
    # The weights as they were saved in the old form give the same answers.
    copied.load_state_dict(reparametrized.renamed(old, copied.state_dict()))
    torch.testing.assert_close(copied(images), wanted, rtol=1e-4, atol=1e-5)


def test_other_networks_keep_their_names():
    model = nn.Sequential(nn.Linear(2, 2))
    state = {**model.state_dict(), "0.weight_g": torch.zeros(1)}
    assert reparametrized.renamed(state, model.state_dict()).keys() == state.keys()


@pytest.mark.parametrize("normalized", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_weights_made_plain_compute_the_same_and_are_read_into_a_fresh_network(normalized):
    model, images = network(normalized).eval(), torch.randn(2, 3, 8, 8)
    wanted = model(images).detach()
    state = reparametrized.folded(model).state_dict()
    torch.testing.assert_close(model(images), wanted)
    assert list(state) == ["0.bias", "0.weight", "2.bias", "2.weight", "4.bias", "4.weight"]
    fresh = reparametrized.folded_as(network(normalized), state)
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh.eval()(images), wanted)


def test_only_weights_that_were_saved_plain_are_made_plain():
    model = network(parametrizations.weight_norm)
    reparametrized.folded_as(model, ["0.weight", "weight", "2.parametrizations.weight.original0"])
    assert [parametrize.is_parametrized(model[i]) for i in (0, 2, 4)] == [False, True, True]
