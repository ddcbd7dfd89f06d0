import copy

import numpy as np
import pytest
import torch

from tlopt.training.methods import selection
from tlopt.training.methods.selection import Candidate, unless_beaten


def tried(*right, images=30):
    """Return candidates that are right on so many images, the same ones first, and where each is right."""
    found = [
        Candidate(share=share, accuracy=count / images, loss=1 - count / images)
        for share, count in zip(selection.SHARES, right, strict=False)
    ]
    return found, [np.arange(images) < count for count in right]


def test_the_first_stays_if_others_are_ahead_by_chance():
    assert unless_beaten(*tried(20, 23, 22), 1.0).share == 1.0  # three images of thirty


def test_the_best_of_those_ahead_beyond_chance_is_taken():
    assert unless_beaten(*tried(20, 24, 26, 25), 1.0).share == 0.5


def test_of_those_equally_far_ahead_the_least_loss_decides():
    candidates, right = tried(20, 26, 26)
    candidates[2] = Candidate(share=0.5, accuracy=candidates[2].accuracy, loss=0.01)
    assert unless_beaten(candidates, right, 1.0).share == 0.5


def test_many_images_tell_small_differences():
    assert unless_beaten(*tried(2000, 2003, images=3000), 1.0).share == 1.0
    assert unless_beaten(*tried(2000, 2004, images=3000), 1.0).share == 0.75


def test_another_share_may_be_the_one_to_beat():
    assert unless_beaten(*tried(23, 22, 20), 0.5).share == 0.5  # the fine-tuned weights are ahead by chance
    assert unless_beaten(*tried(24, 22, 20), 0.5).share == 1.0
    assert unless_beaten(*tried(20)[:2], 0.5).share == 1.0  # there is no mean


@pytest.mark.parametrize(
    ("images", "trainings", "share"), [(10, 1, 0.5), (149, 1, 0.5), (150, 1, 1.0), (100_000, 1, 1.0), (10, 3, 1.0)]
)
def test_trained_once_on_few_images_the_mean_is_kept(images, trainings, share):
    assert selection.usual(images, trainings) == share


@pytest.mark.parametrize("fresh", [True, False])
def test_fine_tuned_weights_stay_where_the_probe_has_less_loss_by_chance(net, parts, monkeypatch, fresh):
    start = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        net.fc.bias.add_(1)
    tuned = copy.deepcopy(net.state_dict())
    answers = iter([0.1, 0.3, 0.5, 0.7, 0.9])  # how sure: from share to share the loss falls, the classes stay

    def predict(model, images, **more):
        sure = next(answers)
        labels = np.arange(8) % 2
        wrong = np.where(np.arange(8) == 0, 1 - labels, labels)
        logits = np.zeros((8, 2), np.float32)
        logits[np.arange(8), wrong] = np.where(np.arange(8) == 0, 0.01, sure)
        return logits, labels

    monkeypatch.setattr(selection, "predict", predict)
    kept, _ = selection.select(net, start, parts[1], device=torch.device("cpu"), usually=1.0, fresh=fresh)
    assert kept.share == (1.0 if fresh else 0.0)
    expected = tuned if fresh else start
    assert all(torch.equal(tensor, expected[name]) for name, tensor in net.state_dict().items())
