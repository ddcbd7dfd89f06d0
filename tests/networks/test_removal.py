from dataclasses import replace

import pytest
import torch
from torch import nn

from tlopt.cards.card import Card
from tlopt.cards.details import TorchDetails
from tlopt.errors import ArtifactError
from tlopt.networks import removal
from tlopt.preprocess import Preprocess


def net():
    block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(block, nn.ReLU()), nn.Conv2d(4, 2, 1))


def test_a_removed_block_answers_with_what_it_is_given_and_others_keep_their_names():
    model = net()
    names = [name for name in model.state_dict() if not name.startswith("1.0.")]
    removal.repeat(model, ["1.0"], where="it")
    assert removal.removed(model) == ("1.0",)
    assert list(model.state_dict()) == names
    images = torch.randn(1, 3, 2, 2)
    assert torch.equal(model(images), model[2](model[0](images).relu()))


@pytest.mark.parametrize("name", ["", "1.7", "1.0.0.0", "1.1", "1.0.weight", "\x1b[2J"])
def test_a_block_that_the_architecture_lacks_is_named(name):
    with pytest.raises(
        ArtifactError, match=r"runs/it names a removed block '.*', which the architecture lacks"
    ) as caught:
        removal.repeat(net(), [name], where="runs/it")
    assert "\x1b" not in str(caught.value)


def test_the_same_block_twice_is_refused():
    with pytest.raises(ArtifactError, match=r"removed block '1\.0'"):
        removal.repeat(net(), ["1.0", "1.0"], where="it")


def test_cards_without_removed_blocks_are_read_as_before():
    card = Card.from_json(_card(TorchDetails()).to_json().replace('"removed_blocks": [],', ""))
    assert card.torch.removed_blocks == ()
    there = _card(replace(TorchDetails(), removed_blocks=("layer1.0",)))
    assert Card.from_json(there.to_json()).torch.removed_blocks == ("layer1.0",)
    with pytest.raises(ArtifactError, match=r"details\.removed_blocks"):
        Card.from_json(there.to_json().replace('"layer1.0"', "3"))


def _card(details):
    return Card(
        kind="torch", model="timm:resnet18", precision="fp32", classes=("a", "b"), preprocess=Preprocess(size=32),
        details=details,
    )  # fmt: skip
