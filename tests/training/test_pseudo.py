"""Images without labels, of which those with a confident answer take part."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_images import COLORS

from tlopt.images.opening import open_pixels
from tlopt.images.scanning import every_image
from tlopt.preprocess import Preprocess
from tlopt.training.methods.pseudo import Pool
from tlopt.training.unlabelled import Unlabelled

LABELS = np.repeat(np.arange(3), 4)


@pytest.fixture
def pool(tmp_path):
    """Return a pool of twenty images, of which one is damaged and one is grey."""

    def made(confidence, teacher=None):
        for number in range(20):
            color = list(COLORS.values())[number % 3]
            Image.new("RGB", (40, 40), tuple(value + number for value in color)).save(tmp_path / f"{number:02}.png")
        (tmp_path / "05.png").write_bytes(b"no image")
        Image.new("L", (40, 40), 90).save(tmp_path / "06.png")
        folder = every_image(tmp_path)
        folder = folder.labelled(folder.labels, tuple(COLORS))
        about = Unlabelled(folder=folder, confidence=confidence, found=20, left_out={"copies": 0})
        return Pool(pixels=open_pixels(folder, Preprocess(size=32), cache_gb=0), about=about, teacher=teacher)

    return made


def test_the_classifier_answers_for_all_that_can_be_read(net, pool):
    seen = pool(0.0)
    seen.look(net, cache=None)
    found = seen.sure(net)
    assert len(found.folder) == 19
    assert "05.png" not in found.folder.files
    assert np.allclose(found.answers.sum(1), 1, atol=1e-5)
    assert (found.answers.argmax(1) == found.folder.labels).all()
    told = seen.record(found, LABELS)
    assert told["left_out"] == {"copies": 0, "unreadable": 1}
    assert told["kept"] == sum(told["kept_per_class"].values()) == 19
    assert (told["answers"], told["labelled"]) == ("classifier", 12)


def test_only_confident_answers_stand_for_labels(net, pool):
    seen = pool(0.0)
    seen.look(net, cache=None)
    sure = np.sort(seen.sure(net).answers.max(1))
    other = pool(float(sure[9]))
    other.look(net, cache=None)
    assert np.allclose(np.sort(other.sure(net).answers.max(1)), sure[9:])


def test_where_no_answer_is_confident_this_is_told(net, pool, caplog):
    seen = pool(1.0)
    seen.look(net, cache=None)
    with caplog.at_level(logging.WARNING):
        assert seen.sure(net) is None
    assert "No answer to the 19 images without labels has a confidence of 1, so that none takes part" in caplog.text
    told = seen.record(None, LABELS)
    assert told["kept"] == 0
    assert told["kept_per_class"] == dict.fromkeys(COLORS, 0)
    assert told["images_per_epoch"] == 12


def test_a_teacher_answers_in_place_of_the_classifier(net, pool):
    def teacher(inputs):
        return torch.tensor([0.0, 50.0, 0.0]).expand(len(inputs), 3)

    seen = pool(0.9, teacher)
    seen.look(net, cache=None)
    found = seen.sure(net)
    assert found.folder.counts == {"blue": 0, "green": 19, "red": 0}
    assert seen.record(found, LABELS)["answers"] == "teacher"
