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


class _Halves(_Net):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(12, 16, 3, 1, 1), nn.Conv2d(12, 16, 3, 1, 1)
        self.fc = nn.Linear(16, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        left, right = self.body(images).chunk(2, 1)
        answers: torch.Tensor = self.fc((self.left(left) + self.right(right)).relu().mean((2, 3)))
        return answers


class _Shared(_Net):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.again, self.fc = nn.Conv2d(24, 24, 3, 1, 1), nn.Linear(24, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        for _ in range(3):
            features = features + self.again(features).relu()
        answers: torch.Tensor = self.fc(features.mean((2, 3)))
        return answers


class _StandardizedConv2d(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Conv2d's own name
        spread, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        weight: torch.Tensor = (self.weight - mean) / (spread + 1e-5)
        answers: torch.Tensor = self._conv_forward(input, weight, self.bias)
        return answers


class _Standardized(_Net):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.more, self.fc = _StandardizedConv2d(24, 64, 3, 1, 1), nn.Linear(64, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.fc(self.more(self.body(images)).relu().mean((2, 3)))
        return answers


class _Transposed(_Net):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.up, self.down = nn.ConvTranspose2d(24, 16, 2, 2), nn.Conv2d(16, 32, 3, 2, 1)
        self.fc = nn.Linear(32, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.down(self.up(self.body(images)).relu()).relu()
        answers: torch.Tensor = self.fc(features.mean((2, 3)))
        return answers


class _GroupedNorms(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.GroupNorm(4, 16),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, 2, 1, groups=2),
            nn.GroupNorm(8, 32),
            nn.SiLU(),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 32),
            nn.ReLU(),
            nn.Linear(32, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.body(images)
        return answers


def halves(classes: int) -> nn.Module:
    """Return a network whose forward pass takes halves of its channels."""
    return _Halves(classes)


def shared(classes: int) -> nn.Module:
    """Return a network that uses one layer three times."""
    return _Shared(classes)


def standardized(classes: int) -> nn.Module:
    """Return a network that standardizes a weight each time that it runs."""
    return _Standardized(classes)


def transposed(classes: int) -> nn.Module:
    """Return a network with a transposed convolution."""
    return _Transposed(classes)


def grouped_norms(classes: int) -> nn.Module:
    """Return a network with group norms, a grouped convolution and two linear layers on flattened pixels."""
    return _GroupedNorms(classes)
