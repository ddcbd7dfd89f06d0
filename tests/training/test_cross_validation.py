import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_nets import fresh_net, write_colors

from tlopt.errors import ImagesError
from tlopt.images import scan
from tlopt.images.opening import open_pixels
from tlopt.preprocess import Preprocess
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.inputs import predict
from tlopt.training.methods import cross_validation
from tlopt.training.methods.cross_validation import cross_validate
from tlopt.training.resumption.checkpoint import Checkpoint

SETTINGS = Hyperparameters(epochs=1, batch=8, lr=0.02, precision="fp32", folds=3)


@pytest.fixture
def pixels(photos):
    return opened(photos)


def opened(photos):
    return open_pixels(scan(photos), Preprocess(size=32), cache_gb=0)


def state(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """One cross-validation: its outcome and network, all images, and what was trained on and asked when."""
    net, pixels = fresh_net(), opened(write_colors(tmp_path_factory.mktemp("judged") / "photos"))
    trained, asked = [], []

    def note_train(model, images, val, *arguments, **more):
        assert val is None
        trained.append(set(images.files))
        return train(model, images, val, *arguments, **more)

    def note_asked(model, images, **more):
        asked.append((trained[-1], set(images.files)))
        return predict(model, images, **more)

    train = cross_validation.train_several
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_validation, "train_several", note_train)
        patch.setattr(cross_validation, "predict", note_asked)
        outcome = cross_validate(net, pixels, SETTINGS, method="lp-ft")
    return SimpleNamespace(outcome=outcome, net=net, pixels=pixels, trained=trained, asked=asked)


def test_each_image_is_answered_by_a_network_that_did_not_see_it(judged):
    outcome, everything = judged.outcome, set(judged.pixels.files)
    assert len(judged.trained) == 4
    assert judged.trained[-1] == everything
    assert all(not seen & files for seen, files in judged.asked)
    assert set().union(*(files for _, files in judged.asked)) == everything
    assert len(outcome.logits) == len(outcome.labels) == 48
    assert outcome.details["folds"] == {"folds": 3, "images": 48}
    assert len(outcome.details["candidates"]) == 5


def test_the_answers_told_are_those_of_the_share_that_was_kept(judged):
    outcome = judged.outcome
    kept = [c for c in outcome.details["candidates"] if c["share"] == outcome.details["fine_tuned_share"]]
    assert (outcome.logits.argmax(1) == outcome.labels).mean() == kept[0]["accuracy"]
    logits, labels = predict(judged.net, judged.pixels, device=torch.device("cpu"))
    assert (logits.argmax(1) == labels).mean() > 0.8


@pytest.mark.parametrize("method", ["head", "full"])
def test_a_method_with_one_candidate_is_judged_out_of_fold(net, pixels, method):
    outcome = cross_validate(net, pixels, SETTINGS, method=method)
    assert [c["share"] for c in outcome.details["candidates"]] == [0.0 if method == "head" else 1.0]
    assert ("probe" in outcome.details) == (method == "head")
    assert bool(outcome.history.epochs) == (method != "head")


@pytest.mark.slow
@pytest.mark.parametrize(("soup", "stopped_after"), [(1, 2), (2, 7)])
def test_an_interrupted_cross_validation_goes_on_where_it_was(net, pixels, tmp_path, soup, stopped_after):
    settings = dataclasses.replace(SETTINGS, soup=soup)
    expected, begun = copy.deepcopy(net), copy.deepcopy(net)
    whole = cross_validate(expected, pixels, settings, method="lp-ft")
    seen = []

    def stop(record):
        seen.append(record)
        if len(seen) == stopped_after:
            raise KeyboardInterrupt

    folder = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        cross_validate(begun, pixels, settings, method="lp-ft", checkpoints=Checkpoint(folder=folder), note=stop)
    more = []
    resumed = Checkpoint(folder=folder, resume=True)
    outcome = cross_validate(net, pixels, settings, method="lp-ft", checkpoints=resumed, note=more.append)
    assert same(state(net), state(expected))
    np.testing.assert_array_equal(outcome.logits, whole.logits)
    assert len(more) == 4 * soup - stopped_after


def test_a_class_of_one_image_cannot_be_left_out(net, photos):
    for file in sorted((photos / "red").iterdir())[1:]:
        file.unlink()
    lone = open_pixels(scan(photos), Preprocess(size=32), cache_gb=0)
    with pytest.raises(ImagesError, match="has one image for training and validation"):
        cross_validate(net, lone, SETTINGS, method="head")
