"""The stage adapt: batch norms on images without labels."""

from __future__ import annotations

import logging

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tlopt
from tlopt.errors import ArtifactError, ImagesError, SettingError


@pytest.fixture(scope="module")
def dark(photos, tmp_path_factory):
    """The same images in one folder without labels, much darker."""
    folder = tmp_path_factory.mktemp("dark")
    for i, file in enumerate(sorted(photos.rglob("*.png")) + sorted(photos.rglob("*.jpg"))):
        with Image.open(file) as image:
            image.convert("RGB").point(lambda value: value // 4).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def adapted(tuned, dark, tmp_path_factory):
    return tlopt.adapt(tuned, tmp_path_factory.mktemp("adapt") / "out", images=dark, prior=8)


def test_only_the_statistics_of_batch_norms_change(tuned, adapted):
    before, after = (load_file(one.payload(".safetensors")) for one in (tuned, adapted))
    assert before.keys() == after.keys()
    changed = {name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"running_mean", "running_var"}


def test_the_card_keeps_what_it_knows_and_tells_of_the_step(tuned, adapted, dark):
    assert adapted.card.classes == tuned.card.classes
    assert adapted.card.images == tuned.card.images
    assert [step.stage for step in adapted.card.lineage] == [*(step.stage for step in tuned.card.lineage), "adapt"]
    assert adapted.card.lineage[-1].settings["images"] == str(dark)


def test_images_of_the_same_camera_change_no_answer_of_a_network_with_frozen_statistics(tuned, photos, tmp_path):
    same = tlopt.adapt(tuned, tmp_path / "out", images=photos, prior=0)
    before, after = (tlopt.evaluate(one, images=photos, split="all").top1 for one in (tuned, same))
    assert abs(before - after) <= 0.05


def test_training_images_that_are_gone_or_others_are_asked_for(tuned, dark, tmp_path):
    for folder in (tmp_path / "gone", dark):
        with pytest.raises(ImagesError, match=r"(?s)training images.*--trained-on"):
            tlopt.adapt(tuned, tmp_path / "out", images=dark, trained_on=folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_goes_on_to_onnx(adapted, dark, tmp_path):
    exported = tlopt.export(adapted, tmp_path / "fp32")
    assert len(list(tlopt.predict(exported, dark))) == len(list(dark.iterdir()))


def test_few_images_are_warned_of(tuned, dark, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        tlopt.adapt(tuned, tmp_path / "out", images=dark, samples=3)
    assert "need more images than 3. Use 16 or more." in caplog.text


def test_images_are_needed(tuned, tmp_path):
    with pytest.raises(SettingError, match="images"):
        tlopt.adapt(tuned, tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(ImagesError, match="no image"):
        tlopt.adapt(tuned, tmp_path / "out", images=tmp_path / "none")
    assert not (tmp_path / "out").exists()


def test_an_artifact_trained_for_int8_is_refused(tuned, dark, tmp_path, monkeypatch):
    from tlopt.cards.details import TorchDetails, TrainedScales

    scales = TrainedScales(runtime="onnxruntime", scales={})
    monkeypatch.setattr(type(tuned.card), "torch", property(lambda _: TorchDetails(qat=scales)))
    with pytest.raises(ArtifactError, match="trained for int8"):
        tlopt.adapt(tuned, tmp_path / "out", images=dark)
