import copy
import dataclasses

import numpy as np
import pytest
import torch

from tlopt.errors import SettingError
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.inputs import predict
from tlopt.training.loop import train
from tlopt.training.methods import soup
from tlopt.training.methods.soup import train_several
from tlopt.training.outcome.temperature import calibrated_loss
from tlopt.training.resumption.checkpoint import Checkpoint

SETTINGS = Hyperparameters(epochs=2, batch=8, lr=0.02, backbone_lr=0.5, precision="fp32", soup=3)


def weights(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def alone(net, parts, seed):
    one = copy.deepcopy(net)
    history = train(one, *parts, dataclasses.replace(SETTINGS, seed=seed))
    return one, history


def test_the_result_is_the_mean_of_the_trainings_that_were_used(net, parts):
    singles = [alone(net, parts, seed)[0] for seed in range(3)]
    history, details = train_several(net, *parts, SETTINGS)
    used = [singles[number - 1].state_dict() for number in details["soup"]["used"]]
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            expected = torch.stack([state[name] for state in used]).mean(0)
            torch.testing.assert_close(tensor, expected)
    assert [record["training"] for record in history.epochs] == [1, 1, 2, 2, 3, 3]
    assert history.epochs[history.best]["training"] == details["soup"]["used"][0]


def test_a_training_that_makes_the_mean_worse_is_left_out(net, parts, monkeypatch):
    def one_is_spoilt(model, train_images, val_images, settings, **more):
        history = train(model, train_images, val_images, settings, **more)
        if settings.seed == 1:
            with torch.no_grad():
                model.fc.weight.mul_(-3)
        return history

    monkeypatch.setattr(soup, "train", one_is_spoilt)
    _, details = train_several(net, *parts, SETTINGS)
    assert 2 not in details["soup"]["used"]
    kept = details["soup"]["losses"][len(details["soup"]["used"]) - 1]  # the spoilt one comes last
    assert calibrated_loss(*predict(net, parts[1], device=torch.device("cpu"))) == pytest.approx(kept)


def test_one_training_is_what_it_was(net, parts):
    expected, history = alone(net, parts, 0)
    found, details = train_several(net, *parts, dataclasses.replace(SETTINGS, soup=1))
    assert same(weights(net), weights(expected))
    assert details == {}
    assert [record["val_loss"] for record in found.epochs] == [record["val_loss"] for record in history.epochs]


@pytest.mark.parametrize("stopped_after", [1, 4])
def test_an_interrupted_soup_goes_on_where_it_was(net, parts, tmp_path, stopped_after):
    expected, begun = copy.deepcopy(net), copy.deepcopy(net)
    train_several(expected, *parts, SETTINGS)
    seen = []

    def stop(record):
        seen.append(record)
        if len(seen) == stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_several(begun, *parts, SETTINGS, checkpoints=Checkpoint(folder=tmp_path / "state"), note=stop)
    more = []
    resumed = Checkpoint(folder=tmp_path / "state", resume=True)
    history, _ = train_several(net, *parts, SETTINGS, checkpoints=resumed, note=more.append)
    assert same(weights(net), weights(expected))
    assert len(history.epochs) == 6
    assert len(more) == 6 - stopped_after
    assert [file.name for file in (tmp_path / "state").iterdir()] == ["checkpoint.safetensors"]


def test_a_soup_goes_on_with_its_own_settings_only(net, parts, tmp_path):
    train_several(copy.deepcopy(net), *parts, SETTINGS, checkpoints=Checkpoint(folder=tmp_path / "state"))
    with pytest.raises(SettingError, match="other settings: lr"):
        train_several(
            net, *parts, dataclasses.replace(SETTINGS, lr=0.3),
            checkpoints=Checkpoint(folder=tmp_path / "state", resume=True),
        )  # fmt: skip


def test_the_seeds_of_the_trainings_differ(net, parts):
    first, second = (alone(net, parts, seed)[0] for seed in (0, 1))
    assert not np.allclose(first.fc.weight.detach(), second.fc.weight.detach())


def said_to_be_right(monkeypatch, *counts):
    """Let the mean of one, of two and so on be right on so many of twenty images, the same ones first."""
    left = list(counts)

    def answered(model, images, **more):
        right = left.pop(0)
        labels = np.zeros(20, np.int64)
        logits = np.zeros((20, 2), np.float32)
        logits[np.arange(20), np.where(np.arange(20) < right, 0, 1)] = 1
        return logits, labels

    monkeypatch.setattr(soup, "predict", answered)


@pytest.mark.parametrize(("second", "third", "used"), [(15, 14, 3), (13, 12, 3), (12, 15, 2), (17, 13, 2)])
def test_a_training_stays_in_the_mean_unless_it_harms_beyond_chance(net, parts, monkeypatch, second, third, used):
    said_to_be_right(monkeypatch, 16, second, third)
    _, details = train_several(net, *parts, SETTINGS)
    assert len(details["soup"]["used"]) == used
