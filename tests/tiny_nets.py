"""A tiny network, images to train it on, and one thread to do it with."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tlopt.images import scan
from tlopt.images.opening import open_pixels
from tlopt.preprocess import Preprocess

SIZE = 32
COLORS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 60, 40)}


class TinyNet(nn.Module):
    """Two stages and a classifier, with batch norms and dropout."""

    def __init__(self, classes=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        return self.fc(self.drop(self.pool(self.body(self.stem(x))).flatten(1)))


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small gain nothing from threads, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def net():
    return fresh_net()


def fresh_net():
    torch.manual_seed(0)
    return TinyNet()


@pytest.fixture
def photos(tmp_path):
    return write_colors(tmp_path / "photos")


def write_colors(root):
    """Write three classes of 16 noisy images of one color each, not quite square."""
    chance = np.random.default_rng(0)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for i in range(16):
            noise = chance.normal(0, 60, (48, 40, 3))
            pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture
def parts(photos):
    """Decoded training and validation images."""
    folders = scan(photos).split(val=0.25, test=0.0, seed=0)
    opened = [open_pixels(folders[part], Preprocess(size=SIZE), cache_gb=0).filled() for part in ("train", "val")]
    yield opened
    for pixels in opened:
        pixels.close()
