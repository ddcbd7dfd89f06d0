import pytest
from drawing import draw

from tlopt import sources
from tlopt.preprocess import Preprocess


@pytest.fixture
def animals(tmp_path):
    """24 cats and 24 dogs, all different."""
    for i in range(48):
        draw(tmp_path / "animals" / ("cat" if i < 24 else "dog") / f"{i:02d}.png", i)
    return tmp_path / "animals"


@pytest.fixture
def tiny_network(monkeypatch):
    """A network whose features are the mean colors of an image's quarters."""
    import torch
    from torch import nn

    def load(model, *, classes, pretrained_classes):
        network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))
        return network, Preprocess(size=16)

    monkeypatch.setattr(sources, "load", load)
    torch.manual_seed(0)
