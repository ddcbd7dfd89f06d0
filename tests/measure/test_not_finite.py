"""A network whose answers are no numbers, or too few, is an error wherever its answers are looked at."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_onnx import RIGHT, write_onnx

import tlopt
from tlopt.errors import ArtifactError, StageError


@pytest.fixture(scope="module")
def lost(tmp_path_factory, card):
    """An artifact whose third class is answered with NaN."""
    weights = RIGHT * np.array([[1], [1], [np.nan]])
    return write_onnx(tmp_path_factory.mktemp("lost") / "lost", card, weights)


@pytest.mark.parametrize(
    "look",
    [
        lambda at: list(tlopt.predict(at.lost, at.images)),
        lambda at: tlopt.evaluate(at.lost, images=at.images),
        lambda at: tlopt.compare(at.tiny, at.lost, images=at.images),
        lambda at: tlopt.bench([at.lost], batch=(1,), seconds=0.01, images=at.images),
        lambda at: tlopt.quantize(at.lost, at.out, precision="fp16", samples=4),
    ],
    ids=["predict", "evaluate", "compare", "bench", "quantize"],
)
def test_answers_that_are_no_numbers_are_an_error(look, lost, tiny, swatches, tmp_path):
    with pytest.raises(StageError, match=r"(?s)not finite"):
        look(SimpleNamespace(lost=lost, tiny=tiny, images=swatches, out=tmp_path / "out"))
    assert not any(tmp_path.iterdir())


def test_a_network_of_other_classes_than_its_card_is_an_error(tmp_path, card, swatches):
    two = write_onnx(tmp_path / "two", replace(card, classes=("a", "b"), images=None), RIGHT)
    with pytest.raises(ArtifactError, match=r"logits of shape \(\d+, 3\); its card has 2 classes"):
        list(tlopt.predict(two, swatches))
