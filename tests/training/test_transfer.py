import copy
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from tlopt.images import scan
from tlopt.images.opening import open_pixels
from tlopt.preprocess import Preprocess
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.inputs import predict
from tlopt.training.methods import soup, transfer

SETTINGS = Hyperparameters(epochs=1, batch=8, lr=0.02)


def opened(folder):
    """Training and validation images, not decoded yet."""
    return [open_pixels(part, Preprocess(size=32), cache_gb=0) for part in folder]


def folders(root):
    parts = scan(root).split(val=0.25, test=0.0, seed=0)
    return parts["train"], parts["val"]


@pytest.mark.parametrize("method", ["lp-ft", "full", "gradual"])
def test_a_large_set_is_trained_before_all_of_it_is_decoded(net, photos, monkeypatch, method):
    monkeypatch.setattr(transfer, "LARGE", 30)
    monkeypatch.setattr(transfer, "_START", 12)
    decoded = []
    parts = opened(folders(photos))

    def count(*arguments, **more):
        decoded.append(int((parts[0]._places[:, 1] > 0).sum()))
        return train(*arguments, **more)

    train = soup.train
    monkeypatch.setattr(soup, "train", count)
    outcome = transfer.transfer(net, *parts, SETTINGS, method=method)
    assert decoded == [0 if method == "full" else 12]
    assert len(outcome.labels) == len(parts[1])
    if method != "full":
        assert outcome.details["probe"]["images"] == 12


def test_the_probe_alone_sees_all_images_of_a_large_set(net, photos, monkeypatch):
    parts = opened(folders(photos))
    expected = transfer.transfer(copy.deepcopy(net), *parts, SETTINGS, method="head")
    monkeypatch.setattr(transfer, "LARGE", 30)
    monkeypatch.setattr(transfer, "_START", 12)
    outcome = transfer.transfer(net, *parts, SETTINGS, method="head")
    np.testing.assert_array_equal(outcome.logits, expected.logits)
    assert outcome.details["probe"]["images"] == 36


def test_fine_tuning_starts_from_the_probes_answers_with_less_confidence(net, photos, monkeypatch):
    parts = opened(folders(photos))
    probe = copy.deepcopy(net)
    sure = transfer.transfer(probe, *parts, SETTINGS, method="head")
    started = []

    def look(model, images, val_images, *arguments, **more):
        started.append(predict(copy.deepcopy(model).eval(), val_images, device=torch.device("cpu"))[0])
        return train(model, images, val_images, *arguments, **more)

    train = soup.train
    monkeypatch.setattr(soup, "train", look)
    transfer.transfer(net, *parts, SETTINGS, method="lp-ft")
    np.testing.assert_allclose(started[0], 0.1 * sure.logits, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_memory_hardly_grows_with_the_number_of_images(net, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "LARGE", 100)
    monkeypatch.setattr(transfer, "_START", 50)
    rng = np.random.default_rng(0)
    for i in range(3000):
        path = tmp_path / f"{3000 if i >= 500 else 500}" / "abc"[i % 3] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    torch.manual_seed(0)
    held = {}
    for name in ("500", "3000"):
        tracemalloc.start()
        train, val = folders(tmp_path / name)
        transfer.transfer(copy.deepcopy(net), *opened((train, val)), SETTINGS, method="lp-ft")
        held[len(train) + len(val)] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    few, many = held
    # An image decoded at this size has 3.8 kB; names, digests and places of an image take about 1 kB.
    assert (held[many] - held[few]) / (many - few) < 1500
