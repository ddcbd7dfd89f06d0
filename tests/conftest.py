"""Fixtures that several folders of tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tlopt

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def write_photos(root: Path, *, per_class: int = 16, size: tuple[int, int] = (44, 36), seed: int = 0) -> Path:
    """Write photos of noisy colors into class folders: a problem that a tiny network learns at once."""
    random = np.random.default_rng(seed)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = np.clip(np.array(color) + random.normal(0, 40, (size[1], size[0], 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny networks gain nothing from threads, and two of them wait for each other on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _private_cache(monkeypatch, tmp_path_factory):
    """Keep the cache of decoded images out of the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True, scope="session")
def _private_settings(tmp_path_factory):
    """Keep the list of trusted models out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of 48 photos in three classes."""
    return write_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="session")
def tuned(photos, tmp_path_factory) -> tlopt.Artifact:
    """A tiny network fine-tuned on the photos."""
    folder = tmp_path_factory.mktemp("tuned")
    return tlopt.finetune(
        photos, folder / "tuned", model="tiny_models:cnn", epochs=2, cache_dir=folder / "cache", seed=0
    )


@pytest.fixture(scope="session")
def exported(tuned, tmp_path_factory) -> tlopt.Artifact:
    """The tiny network as ONNX."""
    return tlopt.export(tuned, tmp_path_factory.mktemp("exported") / "fp32")
