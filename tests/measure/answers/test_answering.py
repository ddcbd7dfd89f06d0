from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from tlopt.backends import open_runner
from tlopt.images import Unreadable, batches, scan
from tlopt.judging import softmax
from tlopt.measure.answers.answering import answers, callers


def logits_of(artifact, folder, *, at_once, batch, backend="", **options):
    with open_runner(artifact, backend, threads=at_once, callers=at_once) as runner:
        assert runner.callers == at_once
        parts = list(
            answers(
                runner, folder, artifact.card.preprocess, batch=batch, unreadable=Unreadable(len(folder)), **options
            )
        )
    assert [file for part in parts for file in part.files] == list(folder.files)
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), folder.labels)
    return np.concatenate([part.logits for part in parts])


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_several_threads_answer_like_one_and_in_order(tiny, swatches, backend, batch):
    folder = scan(swatches)
    alone = logits_of(tiny, folder, at_once=1, batch=batch, backend=backend)
    together = logits_of(tiny, folder, at_once=3, batch=batch, backend=backend)
    np.testing.assert_allclose(together, alone, rtol=1e-6)  # batches differ, and with them the order of sums


def test_torch_is_called_by_several_threads_too(tuned, photos):
    folder = scan(photos)
    alone, together = (logits_of(tuned, folder, at_once=n, batch=5) for n in (1, 3))
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize("at_once", [1, 3])
def test_an_unreadable_image_is_left_out_with_its_reason(tiny, swatches, tmp_path, at_once):
    shutil.copytree(swatches, tmp_path / "photos")
    (tmp_path / "photos" / "green" / "3.png").write_bytes(b"no image")
    folder = scan(tmp_path / "photos")
    found = Unreadable(len(folder))
    with open_runner(tiny, threads=at_once, callers=at_once) as runner:
        parts = list(answers(runner, folder, tiny.card.preprocess, batch=4, unreadable=found))
    assert sum(len(part.files) for part in parts) == len(folder) - 1
    assert list(found.reasons) == ["green/3.png"]


@pytest.mark.parametrize(("views", "count"), [("flip", 2), ("five", 5), ("ten", 10)])
@pytest.mark.parametrize("at_once", [1, 2])
def test_the_probabilities_of_all_views_are_averaged(tiny, swatches, views, count, at_once):
    folder, preprocess = scan(swatches).select(range(5)), tiny.card.preprocess
    found = softmax(logits_of(tiny, folder, at_once=at_once, batch=4, views=views))
    with open_runner(tiny) as runner:
        for file, row in zip(folder.files, found, strict=True):
            with Image.open(folder.path / file) as image:
                pixels = preprocess.views(image, views)
            assert pixels.shape == (count, preprocess.size, preprocess.size, 3)
            expected = softmax(runner(preprocess.normalize(pixels))).mean(axis=0)
            np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_batches_and_answers_see_the_same_pixels(tiny, swatches):
    folder = scan(swatches)
    with open_runner(tiny) as runner:
        before = np.concatenate([runner(chunk.inputs) for chunk in batches(folder, tiny.card.preprocess, batch=16)])
    np.testing.assert_allclose(logits_of(tiny, folder, at_once=2, batch=16), before, rtol=1e-6)


def test_no_more_threads_call_than_there_are_images():
    assert callers(1, 8) == 1
    assert callers(3, 8) == 3
    assert callers(100, 8) == 8
