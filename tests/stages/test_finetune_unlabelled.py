"""tlopt finetune --unlabelled: images without labels take part in training."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from interruptions import interrupt_after
from safetensors.torch import load_file
from tiny_images import write_photos

import tlopt
from tlopt import progress
from tlopt.errors import ImagesError, SettingError
from tlopt.images import scan
from tlopt.recipes.recipe import _key
from tlopt.recipes.tables import Recipe
from tlopt.show import show
from tlopt.training import unlabelled
from tlopt.training.methods import pseudo
from tlopt.training.unlabelled import Guidance


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Images of the same colors without labels, 30 of each, some in a folder within the folder."""
    labelled = write_photos(tmp_path_factory.mktemp("others") / "labelled", per_class=30, seed=1)
    flat = labelled.parent / "flat"
    (flat / "inner").mkdir(parents=True)
    for number, file in enumerate(sorted(labelled.rglob("*.png"))):
        file.rename(flat / ("inner" if number % 2 else "") / f"{number}.png")
    return flat


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return {"model": "tiny_models:cnn", "epochs": 2, "batch": 8, "cache_dir": cache, "precision": "fp32"}


@pytest.fixture(scope="module")
def made(photos, others, options, tmp_path_factory):
    return tlopt.finetune(photos, tmp_path_factory.mktemp("made") / "out", unlabelled=others, **options)


def weights(artifact):
    return load_file(artifact.payload(".safetensors"))


def same(one, other):
    return all((tensor == other[name]).all() for name, tensor in one.items())


def test_the_card_says_how_many_of_how_many_took_part(made, photos, options, tmp_path):
    told = made.card.torch.metrics["unlabelled"]
    assert told["images"] == 90
    assert 60 <= told["kept"] <= 90  # the colors are easy to tell apart
    assert sum(told["kept_per_class"].values()) == told["kept"]
    assert set(told["kept_per_class"]) == {"blue", "green", "red"}
    assert told["answers"] == "classifier"
    assert told["images_per_epoch"] > told["labelled"]
    assert f"Without labels: {told['kept']} of 90 images took part" in "\n".join(show(made).notes)
    alone = tlopt.finetune(photos, tmp_path / "alone", **options)
    assert "unlabelled" not in alone.card.torch.metrics
    assert not same(weights(alone), weights(made))


def test_an_interrupted_run_goes_on_to_the_same_weights(made, photos, others, options, tmp_path):
    token = progress.display.set(interrupt_after(20))
    try:
        with pytest.raises(KeyboardInterrupt):
            tlopt.finetune(photos, tmp_path / "out", unlabelled=others, **options)
    finally:
        progress.display.reset(token)
    with pytest.raises(SettingError, match="other settings: images"):
        tlopt.finetune(photos, tmp_path / "out", resume=True, **options)
    again = tlopt.finetune(photos, tmp_path / "out", unlabelled=others, resume=True, **options)
    assert same(weights(again), weights(made))


def test_folds_ask_a_classifier_that_has_not_seen_the_part(photos, others, options, tmp_path, monkeypatch):
    asked = []

    def noted(self, model):
        asked.append(found := sure(self, model))
        return found

    sure = pseudo.Pool.sure
    monkeypatch.setattr(pseudo.Pool, "sure", noted)
    made = tlopt.finetune(photos, tmp_path / "out", unlabelled=others, folds=2, **{**options, "epochs": 1})
    assert len(asked) == 3
    answers = [found.answers for found in asked]
    assert not any(len(one) == len(two) and np.array_equal(one, two) for one, two in itertools.pairwise(answers))
    assert made.card.torch.metrics["unlabelled"]["kept"] == len(answers[-1])


def test_a_teacher_answers_where_there_is_one(photos, others, tuned, options, tmp_path):
    made = tlopt.finetune(
        photos, tmp_path / "out", unlabelled=others, teacher=tuned.path, method="full",
        unlabelled_confidence=0.5,  # so short a training leaves the teacher right and unsure
        **{**options, "epochs": 1},
    )  # fmt: skip
    assert made.card.torch.metrics["unlabelled"]["answers"] == "teacher"
    assert made.card.torch.metrics["unlabelled"]["kept"] > 0


def test_images_for_validation_and_the_test_do_not_leak(photos, others, tmp_path, caplog):
    parts = scan(photos).split(val=0.2, test=0.2, seed=0)
    folder = tmp_path / "mixed"
    shutil.copytree(others, folder)
    for part in ("train", "val", "test"):
        for number, name in enumerate(parts[part].files):
            shutil.copy(photos / name, folder / f"{part}-{number}.png")
    shutil.copy(folder / "0.png", folder / "again.png")
    with caplog.at_level(logging.WARNING):
        found = unlabelled.find(Guidance(unlabelled=folder), parts, 0)
    held = len(parts["val"]) + len(parts["test"])
    assert len(found.folder) == 90
    assert found.left_out == {
        "of_validation_or_test": held, "of_training": len(parts["train"]), "copies": 1, "more_than_looked_at": 0,
    }  # fmt: skip
    assert (
        f"{held} of the {90 + 48 + 1} images in {folder} are copies of images for validation or the test" in caplog.text
    )


def test_of_very_many_images_some_are_drawn(photos, others, monkeypatch):
    monkeypatch.setattr(unlabelled, "_LOOKED_AT", 25)
    parts = scan(photos).split(val=0.2, test=0.2, seed=0)
    found = unlabelled.find(Guidance(unlabelled=others), parts, 0)
    assert len(found.folder) == 25
    assert found.left_out["more_than_looked_at"] == 65


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "head"}, "take part when all layers train"),
        ({"effort": "quick"}, "take part when all layers train"),
        ({"method": "full"}, "the classifier is untrained, so nothing can answer"),
        ({"unlabelled_confidence": 1.5}, "must be between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused_at_once(photos, others, options, tmp_path, changes, message):
    with pytest.raises(SettingError, match=message):
        tlopt.finetune(photos, tmp_path / "out", unlabelled=others, **{**options, **changes})


def test_a_folder_without_other_images_is_refused(photos, options, tmp_path):
    with pytest.raises(ImagesError, match=r"Every image in .* is a copy of a labelled one"):
        tlopt.finetune(photos, tmp_path / "out", unlabelled=photos, **options)
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "holds no image"), ("nowhere", "does not exist")):
        with pytest.raises(ImagesError, match=message):
            tlopt.finetune(photos, tmp_path / "out", unlabelled=tmp_path / folder, **options)


def test_a_recipe_makes_the_step_again_when_other_images_are_there(photos, others, tmp_path):
    folder = tmp_path / "others"
    shutil.copytree(others, folder)
    tlopt.trust("tiny_models")
    file = tmp_path / "recipe.toml"
    lines = ("[tuned]", f'finetune = "{photos}"', 'model = "tiny_models:cnn"', f'unlabelled = "{folder}"')
    file.write_text("\n".join([f'out = "{tmp_path}/runs"', *lines]))
    recipe = Recipe.read(file)
    before = _key(recipe, recipe.steps[0])
    assert before == _key(recipe, recipe.steps[0])
    (folder / "0.png").unlink()
    assert before != _key(recipe, recipe.steps[0])


@pytest.mark.slow
def test_two_processes_take_the_images_that_one_takes(photos, others, options, tmp_path):
    settings = {**options, "unlabelled": others, "cache_dir": tmp_path / "cache", "soup": 2}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    pair = [sys.executable, str(Path(__file__).parents[1] / "two_processes.py")]
    subprocess.run(
        [*pair, "finetune", str(photos), "--out", str(tmp_path / "two"), *words],
        check=True,
        timeout=600,
        env=environment,
    )
    one, two = tlopt.finetune(photos, tmp_path / "one", **settings), tlopt.Artifact.load(tmp_path / "two")
    assert one.card.torch.metrics["unlabelled"] == two.card.torch.metrics["unlabelled"]
    # Each half of a batch is summed up on its own.
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-3, atol=1e-4)
