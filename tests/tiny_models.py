"""Networks small enough to train in a blink; made by name like a user's own model: tiny_models:cnn."""

from __future__ import annotations

from torch import nn

PREPROCESS = {"size": 32, "crop_ratio": 1.0, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}


def cnn(classes: int, width: int = 16) -> nn.Module:
    """Return a three-layer network for 32 px images with the usual layers: conv, norm, activation, residual."""
    model = _Cnn(classes, width)
    model.preprocess = dict(PREPROCESS)
    return model


class _Cnn(nn.Module):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(2 * width)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, images):
        x = self.act(self.norm1(self.stem(images)))
        x = self.act(x + self.norm2(self.body(x)))
        x = self.act(self.norm3(self.down(x)))
        return self.classifier(self.pool(x).flatten(1))
