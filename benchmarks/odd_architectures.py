"""Networks that are built in unusual ways, for architectures.py. Each function takes the number of classes."""

from __future__ import annotations

import torch
from torch import nn


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, 2, 1),
            nn.BatchNorm2d(24),
            nn.ReLU(),
        )


class _Early(_Net):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc, self.gate = nn.Linear(24, classes, bias=False), nn.Linear(24, 24)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images).mean((2, 3))
        answers: torch.Tensor = self.fc(features * self.gate(features).sigmoid())
        return answers


class _Convolution(_Net):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.last = nn.Conv2d(24, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.last(self.body(images)).mean((2, 3))
        return answers


class _Distilled(_Net):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head, self.head_dist = nn.Linear(24, classes), nn.Linear(24, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images).mean((2, 3))
        answers: torch.Tensor = (self.head(features) + self.head_dist(features)) / 2
        return answers


class _Splits(_Net):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(12, 16, 3, 1, 1), nn.Conv2d(12, 16, 3, 1, 1)
        self.fc = nn.Linear(32, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        left, right = self.body(images).split([12, 12], 1)
        answers: torch.Tensor = self.fc(torch.cat([self.left(left), self.right(right)], 1).relu().mean((2, 3)))
        return answers


def early(classes: int) -> nn.Module:
    """Return a network whose classifier is registered before other linear layers, without a bias."""
    return _Early(classes)


def convolution(classes: int) -> nn.Module:
    """Return a network whose classifier is a 1 x 1 convolution."""
    return _Convolution(classes)


def distilled(classes: int) -> nn.Module:
    """Return a network with two classifiers whose mean is the answer."""
    return _Distilled(classes)


def splits(classes: int) -> nn.Module:
    """Return a network whose forward pass knows its widths."""
    return _Splits(classes)
