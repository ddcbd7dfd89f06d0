import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tlopt import sources
from tlopt.errors import ImagesError, SettingError
from tlopt.measure.find_lr import find_lr

MODEL = "timm:test_efficientnet"


@pytest.fixture
def colors(tmp_path):
    chance = np.random.default_rng(0)
    for name, color in {"blue": (40, 60, 200), "red": (200, 60, 40)}.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(np.array(color) + chance.normal(0, 60, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


@pytest.mark.slow
def test_find_lr_suggests_a_rate_within_its_range_and_draws_the_curve(colors, tmp_path):
    torch.manual_seed(0)
    save_file(sources.build(MODEL, classes=2, size=32).state_dict(), tmp_path / "weights.safetensors")
    report = find_lr(
        colors, model=MODEL, weights=tmp_path / "weights.safetensors", image_size=32, batch=4, steps=20,
        plot=tmp_path / "curve.svg", cache_dir=tmp_path / "cache",
    )  # fmt: skip
    (row,) = report.rows
    assert 1e-7 <= row["suggested_lr"] <= 0.1
    assert len(report.details["curve"]) == row["steps"] <= 20
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_find_lr_checks_its_settings(colors):
    with pytest.raises(SettingError, match="steps must be between 10 and 1000000, got 2"):
        find_lr(colors, steps=2)
    with pytest.raises(SettingError, match=r"lowest rate must be below the highest, got 1 and 0\.1"):
        find_lr(colors, lowest=1.0, highest=0.1)
    with pytest.raises(ImagesError, match="nowhere does not exist"):
        find_lr("nowhere", model=MODEL)
