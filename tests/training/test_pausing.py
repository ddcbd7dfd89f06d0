import copy

import pytest
import torch

from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.loop import train
from tlopt.training.resumption.checkpoint import Checkpoint
from tlopt.training.resumption.pausing import PausedError, asking

SETTINGS = Hyperparameters(epochs=3, batch=8, lr=0.02, backbone_lr=0.5, frozen_norm=False, precision="fp32")


def test_a_training_that_paused_goes_on_as_if_nothing_had_been(net, parts, tmp_path):
    whole, paused = copy.deepcopy(net), copy.deepcopy(net)
    train(whole, *parts, SETTINGS)
    kept = Checkpoint(folder=tmp_path, resume=True)
    with asking(lambda epochs: "pause" if len(epochs) == 2 else "go on"):
        for model in (paused, copy.deepcopy(net)):  # the second finds that it has come so far already
            with pytest.raises(PausedError) as caught:
                train(model, *parts, SETTINGS, checkpoints=kept)
            assert [record["epoch"] for record in caught.value.epochs] == [1, 2]
    going_on = copy.deepcopy(net)
    history = train(going_on, *parts, SETTINGS, checkpoints=kept)
    assert len(history.epochs) == 3
    for one, other in zip(whole.state_dict().values(), going_on.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_training_is_finished_early_with_its_best_weights(net, parts):
    with asking(lambda _: "finish"):
        history = train(net, *parts, SETTINGS)
    assert len(history.epochs) == 1
    assert not net.training
