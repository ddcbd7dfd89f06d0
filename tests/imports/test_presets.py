import numpy as np
import pytest

from tlopt.errors import SettingError
from tlopt.imports.presets import PRESETS, preset
from tlopt.preprocess import Preprocess

PIXEL = np.array([[[[10, 100, 200]]]], np.uint8)
# By hand, from the modes of keras.applications: x / 127.5 - 1; BGR minus the means; (x / 255 - mean) / std; x.
WANTED = {
    "keras:mobilenet_v2": [10 / 127.5 - 1, 100 / 127.5 - 1, 200 / 127.5 - 1],
    "keras:resnet": [200 - 103.939, 100 - 116.779, 10 - 123.68],
    "keras:densenet": [(10 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (200 / 255 - 0.406) / 0.225],
    "keras:efficientnet": [10, 100, 200],
    "0..1": [10 / 255, 100 / 255, 200 / 255],
}


@pytest.mark.parametrize("name", WANTED)
def test_a_preset_feeds_what_its_family_was_trained_on(name):
    fed = Preprocess.from_dict({**Preprocess(size=1).to_dict(), **preset(name)}).normalize(PIXEL)
    assert fed.ravel() == pytest.approx(WANTED[name], abs=1e-4)  # of float32


def test_an_unknown_preset_names_its_close_match():
    with pytest.raises(SettingError, match="no preset 'keras:mobilenetv2'") as error:
        preset("keras:mobilenetv2")
    assert "keras:mobilenet_v2" in error.value.hint
    assert all(set(fields) == {"mean", "std", "channels"} for fields in PRESETS.values())
