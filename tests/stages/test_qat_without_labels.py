"""tlopt qat on images without labels: the rounded network learns the answers that the network gave before."""

from __future__ import annotations

import logging
import shutil

import pytest
from interruptions import interrupt_after
from safetensors.torch import load_file

import tlopt
from tlopt import progress
from tlopt.errors import ImagesError, SettingError
from tlopt.show import show


@pytest.fixture(scope="module")
def flat(photos, tmp_path_factory):
    """The images without their labels, some in a folder within the folder."""
    folder = tmp_path_factory.mktemp("flat")
    (folder / "inner").mkdir()
    for number, file in enumerate(sorted(file for file in photos.rglob("*") if file.is_file())):
        shutil.copy(file, folder / ("inner" if number % 2 else "") / f"{number}{file.suffix}")
    return folder


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return {"epochs": 4, "batch": 8, "lr": 2e-3, "cache_dir": tmp_path_factory.mktemp("cache")}


@pytest.fixture(scope="module")
def trained(tuned, flat, options, tmp_path_factory):
    return tlopt.qat(tuned, tmp_path_factory.mktemp("qat") / "trained", images=flat, **options)


def test_the_rounded_network_comes_nearer_to_the_answers_of_the_network_before(trained):
    metrics = trained.card.torch.metrics
    untrained = metrics["candidates"][-1]
    assert untrained["share"] == 0
    assert metrics["agreement"]["divergence"] < untrained["divergence"]
    assert metrics["agreement"]["agreement"] >= untrained["agreement"]
    assert {"val_agreement", "val_divergence"} <= set(metrics["epochs"][0])


def test_the_card_says_what_it_learned_from_and_claims_no_accuracy(trained, tuned, flat):
    details = trained.card.torch
    assert "validation" not in details.metrics
    told = details.metrics["without_labels"]
    assert told["train"] + told["held_out"] == 48
    assert details.metrics["agreement"]["images"] == told["held_out"]
    assert details.qat.scales
    assert trained.card.images == tuned.card.images
    assert trained.card.lineage[-1].settings["images"] == str(flat)
    assert not (trained.path / "confusion_matrix.svg").exists()
    shown = "\n".join(show(trained).notes)
    assert "Agreement with the network before: " in shown
    assert "Accuracy" not in shown


def test_an_interrupted_run_goes_on_to_the_same_weights(trained, tuned, flat, options, tmp_path):
    token = progress.display.set(interrupt_after(7))
    try:
        with pytest.raises(KeyboardInterrupt):
            tlopt.qat(tuned, tmp_path / "again", images=flat, **options)
    finally:
        progress.display.reset(token)
    again = tlopt.qat(tuned, tmp_path / "again", images=flat, resume=True, **options)
    before, after = (load_file(one.payload(".safetensors")) for one in (trained, again))
    assert all((before[name] == after[name]).all() for name in before)


def test_an_imported_network_that_knows_no_images_is_trained(flat, options, tmp_path):
    (tmp_path / "names.txt").write_text("blue\ngreen\nred\n")
    source = tlopt.import_model(None, tmp_path / "own", model="tiny_models:cnn", classes=tmp_path / "names.txt")
    made = tlopt.qat(source, tmp_path / "out", images=flat, **{**options, "epochs": 1})
    assert made.card.images is None
    assert made.card.torch.metrics["agreement"]["images"] == 10


def test_it_is_told_that_there_are_no_labels(tuned, flat, tmp_path, caplog, monkeypatch):
    from tlopt.training import job

    monkeypatch.setattr(job.Job, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        tlopt.qat(tuned, tmp_path / "out", images=flat)
    assert "the network learns its own answers to its images (38 to train on, 10 to judge by)" in caplog.text


@pytest.mark.parametrize(("setting", "value"), [("loss", "focal"), ("smoothing", 0.1), ("teacher_weight", 0.3)])
def test_settings_about_labels_are_refused(tuned, flat, tmp_path, setting, value):
    with pytest.raises(SettingError, match=f"learns its own answers alone. {setting} does not"):
        tlopt.qat(tuned, tmp_path / "out", images=flat, **{setting: value})


def test_a_teacher_is_refused(tuned, flat, tmp_path):
    with pytest.raises(SettingError, match="teacher does not go with that"):
        tlopt.qat(tuned, tmp_path / "out", images=flat, teacher=tuned.path)


def test_a_folder_needs_two_different_images(tuned, flat, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    with pytest.raises(ImagesError, match="holds no image"):
        tlopt.qat(tuned, tmp_path / "out", images=folder)
    first = next(file for file in flat.iterdir() if file.is_file())
    for name in "ab":
        shutil.copy(first, folder / f"{name}{first.suffix}")
    with pytest.raises(ImagesError, match="has one image, copies aside"):
        tlopt.qat(tuned, tmp_path / "out", images=folder)
    with pytest.raises(ImagesError, match="does not exist"):
        tlopt.qat(tuned, tmp_path / "out", images=tmp_path / "nowhere")
