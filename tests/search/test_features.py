"""A regression on frozen features, judged on images that it was not fitted to."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tlopt.errors import ArtifactError, ImagesError
from tlopt.images import scan
from tlopt.images.parts import Shares
from tlopt.search.features import frozen_accuracy, seen
from tlopt.search.space import Network, network
from tlopt.training.methods.out_of_fold import out_of_fold

TINY = Network(name="tiny_models:cnn")


def test_a_regression_on_frozen_features_is_judged_out_of_fold(photos, tmp_path):
    score = frozen_accuracy(TINY, 32, scan(photos), cache_dir=tmp_path)
    assert score.images == 48
    assert score.folds == 5
    assert score.interval[0] < score.accuracy < score.interval[1] or score.accuracy == score.interval[1] == 1
    assert score.accuracy > 0.6  # of three classes that random features of colors tell apart
    again = frozen_accuracy(TINY, 32, scan(photos), cache_dir=tmp_path)
    assert (again.accuracy, again.loss) == (score.accuracy, score.loss)


def test_labels_that_say_nothing_are_not_learned():
    """With more features than images, whoever was fitted to an image knows its label by heart."""
    random = torch.Generator().manual_seed(0)
    labels = np.arange(120) % 4
    found = out_of_fold(torch.randn(120, 300, generator=random), labels, np.arange(120), classes=4, seed=0)
    assert abs((found.predicted == labels).mean() - 0.25) < 0.13  # three standard errors


def test_copies_are_judged_by_a_regression_that_saw_neither():
    random = torch.Generator().manual_seed(0)
    labels = np.repeat(np.arange(60) % 4, 2)
    twice = torch.randn(60, 300, generator=random).repeat_interleave(2, dim=0)
    apart = out_of_fold(twice, labels, np.arange(120), classes=4, seed=0)
    together = out_of_fold(twice, labels, np.arange(120) // 2, classes=4, seed=0)
    assert (apart.predicted == labels).mean() > 0.6
    assert (together.predicted == labels).mean() < 0.45


def test_an_easy_problem_is_learned_with_and_without_a_bias():
    labels = np.arange(90) % 3
    inputs = torch.eye(3)[labels] * 5 + torch.randn(90, 3, generator=torch.Generator().manual_seed(1))
    for bias in (True, False):
        found = out_of_fold(inputs, labels, np.arange(90), classes=3, seed=0, bias=bias)
        assert (found.predicted == labels).mean() > 0.95


def test_only_some_images_of_many_are_looked_at(photos, tmp_path):
    assert frozen_accuracy(TINY, 32, scan(photos), cache_dir=tmp_path, most=24).images == 24


def test_images_of_the_test_part_are_not_seen(photos):
    folder = scan(photos)
    parts = folder.split(val=0.2, test=0.25, seed=3)
    kept = seen(folder, Shares(val=0.2, test=0.25), 3)
    assert set(kept.files) == {*parts["train"].files, *parts["val"].files}
    assert not set(kept.files) & set(parts["test"].files)
    assert kept.classes == folder.classes


def test_a_class_of_one_image_is_refused(photos, tmp_path):
    few = shutil.copytree(photos, tmp_path / "few")
    for file in sorted((few / "red").iterdir())[1:]:
        file.write_bytes((few / "red/00.png").read_bytes())
    with pytest.raises(ImagesError, match=r"The class red of .* has one image"):
        frozen_accuracy(TINY, 32, scan(few), cache_dir=tmp_path / "cache")


def test_images_that_cannot_be_read_are_left_out(photos, tmp_path):
    some = shutil.copytree(photos, tmp_path / "some")
    (some / "red/00.png").write_bytes(b"no image")
    assert frozen_accuracy(TINY, 32, scan(some), cache_dir=tmp_path / "cache").images == 47
    assert frozen_accuracy(TINY, 32, scan(some), cache_dir=tmp_path / "cache").images == 47


def test_a_trained_artifact_keeps_its_size(tuned, exported, photos, tmp_path):
    score = frozen_accuracy(network(tuned.path), 32, scan(photos), cache_dir=tmp_path)
    assert score.accuracy > 0.9
    with pytest.raises(ArtifactError, match="32 px, not of 48 px"):
        frozen_accuracy(network(tuned.path), 48, scan(photos), cache_dir=tmp_path)
    with pytest.raises(ArtifactError, match="kind onnx"):
        frozen_accuracy(network(exported.path), 32, scan(photos), cache_dir=tmp_path)


def test_gray_images_are_as_good_as_others(tmp_path):
    random = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 180)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.clip(random.normal(level, 20, (40, 40)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    score = frozen_accuracy(TINY, 32, scan(tmp_path / "images"), cache_dir=tmp_path / "cache")
    assert score.accuracy > 0.8


def test_a_network_that_knows_the_images_is_judged_by_its_own_answers_on_those_it_was_not_trained_on(tuned, tmp_path):
    ref = tuned.card.images
    whole = scan(ref.path)
    held_out = whole.split(val=ref.val, test=ref.test, seed=ref.seed)["val"]
    some = seen(whole, Shares(val=ref.val, test=ref.test), ref.seed)
    found = frozen_accuracy(network(tuned.path), 32, some, whole=whole, cache_dir=tmp_path)
    assert (found.images, found.folds) == (len(held_out), 0)
    assert found.accuracy == tuned.card.torch.metrics["validation"]["accuracy"]
    others = whole.select(range(len(whole) - 1))  # other images than those of its training
    assert frozen_accuracy(network(tuned.path), 32, some, whole=others, cache_dir=tmp_path).folds > 0
    training = whole.split(val=ref.val, test=ref.test, seed=ref.seed)["train"]
    with pytest.raises(ArtifactError, match="was trained on all of these images"):
        frozen_accuracy(network(tuned.path), 32, training, whole=whole, cache_dir=tmp_path)
