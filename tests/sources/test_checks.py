"""Networks that cannot be worked with are refused before any work."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from tlopt.errors import PluginError
from tlopt.sources._checks import check


class Net(nn.Module):
    def __init__(self, at_the_end=None) -> None:
        super().__init__()
        self.conv, self.norm, self.fc, self.end = (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Linear(8, 4),
            at_the_end or nn.Identity(),
        )

    def forward(self, images):
        return self.fc(self.end(self.norm(self.conv(images)).relu().mean((2, 3))))


class Always(nn.Module):
    def forward(self, rows):
        return functional.dropout(rows, 0.5)


class Noise(nn.Module):
    def forward(self, rows):
        return rows + torch.randn_like(rows)


@pytest.mark.parametrize("end", [Always(), Noise()])
def test_random_numbers_in_evaluation_are_told(end):
    with pytest.raises(PluginError, match="answers the same image differently each time") as found:
        check("own:net", Net(end), 16, own=True)
    assert "training=self.training" in found.value.hint


def test_negative_variances_and_weights_that_are_no_numbers_are_told():
    model = Net()
    model.norm.running_var.fill_(-2)
    with pytest.raises(PluginError, match=r"not finite .*norm\.running_var holds negative variances, down to -2"):
        check("own:net", model, 16, own=True)
    model = Net()
    with torch.no_grad():
        model.conv.weight[0] = float("nan")
    with pytest.raises(PluginError, match=r"not finite .*conv\.weight holds some itself"):
        check("own:net", model, 16, own=True)


def test_a_sound_network_passes_and_stays_as_it_is():
    model = Net(nn.Dropout())
    before, state = torch.random.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    check("own:net", model, 16, own=True)
    assert model.training
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


class Contrast(nn.Module):
    """Divides by the spread of the image, which a blank one has none of."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, images):
        return self.net((images - images.mean()) / images.std())


def test_a_blank_image_may_have_no_answer():
    check("own:net", Contrast(), 16, own=True)
