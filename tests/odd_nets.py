"""Networks that are easily not opened again as they were; made by name: odd_nets:versioned."""

import itertools

import torch
from torch import nn

_signs = itertools.cycle([1.0, -1.0])


def versioned(classes):
    """Return a network whose module looks at the version of its weights."""
    return _Versioned(classes)


def two_heads(classes):
    """Return a network with two classifiers, both without a bias."""
    return _TwoHeads(classes)


def forgetful(classes):
    """Return a network that is another one each time that it is made."""
    return _Forgetful(classes)


def viewing(classes):
    """Return a network that flattens by a view, which does not work channels last."""
    return _Viewing(classes)


def auxiliary(classes):
    """Return a network that answers with a tuple while it trains."""
    return _Auxiliary(classes)


def answering(classes, kind="tuple"):
    """Return a network that does not answer with one tensor of logits."""
    return _Answering(classes, kind)


def nothing():
    """Takes no number of classes."""


def normalized(classes, kind="weight"):
    """Return a network whose layers have the old forms of weight or spectral normalization."""
    norm = {"weight": nn.utils.weight_norm, "spectral": nn.utils.spectral_norm}[kind]
    body = nn.Sequential(norm(nn.Conv2d(3, 24, 3, 2, 1)), nn.ReLU(), norm(nn.Conv2d(24, 16, 3, 2, 1)), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))


def fixed(classes):
    """Takes images of 32 px only."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.Flatten(), nn.Linear(4 * 8 * 8, classes))


def cancelling(classes):
    """Rounds its own features coarsely: it adds a large number and takes it away again."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _Cancelling(classes)


class _Cancelling(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, classes)

    def forward(self, images):
        features = self.body(images).mean((2, 3)) * 30
        return self.fc((features + 1e5) - 1e5)


class _Viewing(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.preprocess = {"size": 32}
        self.body, self.fc = nn.Conv2d(3, 8, 3, 4, 1), nn.Linear(8 * 8 * 8, classes)

    def forward(self, images):
        features = self.body(images).relu()
        return self.fc(features.view(features.size(0), -1))


class _Auxiliary(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body, self.side, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, classes), nn.Linear(8, classes)

    def forward(self, images):
        features = self.body(images).mean((2, 3))
        return (self.fc(features), self.side(features)) if self.training else self.fc(features)


class _Answering(nn.Module):
    def __init__(self, classes, kind):
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(3, classes)

    def forward(self, images):
        logits = self.fc(images.mean((2, 3)))
        return {"tuple": (logits, logits), "dict": {"out": logits}, "map": logits[:, :, None, None]}[self.kind]


class _Versioned(nn.Module):
    """A network that looks at the version which torch keeps beside the tensors, as torchvision's MNASNet does."""

    _version = 2

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(8, classes)

    def forward(self, images):
        return self.fc(self.body(images).flatten(1))

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") not in (1, 2):
            raise ValueError(f"version should be set to 1 or 2 instead of {metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class _TwoHeads(nn.Module):
    """A network whose `replace_head`, which knows one head, makes something else than its architecture."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, 2, 1)
        self.other = nn.Linear(8, classes, bias=False)
        self.fc = nn.Linear(8, classes, bias=False)

    def forward(self, images):
        features = self.body(images).mean((2, 3))
        return self.fc(features) + self.other(features)


class _Forgetful(nn.Module):
    """A network that holds something which is not among its weights."""

    def __init__(self, classes):
        super().__init__()
        self.sign = next(_signs)
        self.fc = nn.Linear(3, classes)

    def forward(self, images):
        return self.fc(images.mean((2, 3))) * self.sign


def loud(classes):
    """Return a network that prints, when it is made and when it runs."""
    print("made")  # noqa: T201 - that is the point
    return _Loud(classes)


class _Loud(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, classes)

    def forward(self, images):
        print("runs")  # noqa: T201
        return self.fc(self.body(images).mean((2, 3)))
