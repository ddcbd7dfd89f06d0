import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from tlopt import sources
from tlopt.errors import PluginError
from tlopt.networks import head
from tlopt.sources import module as own
from tlopt.training import freezing
from tlopt.training.methods import probe

CLASSES, WIDTH = 5, 8


class Net(nn.Module):
    """A convolution, then heads that the derived class makes."""

    def __init__(self):
        super().__init__()
        self.heads()
        self.body = nn.Conv2d(3, WIDTH, 3, 2, 1)

    def pooled(self, images):
        return functional.relu(self.body(images)).mean((2, 3))


class Early(Net):
    """The classifier is registered before the linear layers of an attention, and has no bias."""

    def heads(self):
        self.fc = nn.Linear(WIDTH, CLASSES, bias=False)
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, images):
        features = self.pooled(images)
        return self.fc(features * self.gate(features).sigmoid())


class Convolution(Net):
    """As in SqueezeNet: a 1 x 1 convolution, a ReLU, then the mean over all places."""

    def heads(self):
        self.drop = nn.Dropout(0.5)
        self.last = nn.Conv2d(WIDTH, CLASSES, 1)

    def forward(self, images):
        return functional.relu(self.last(self.drop(functional.relu(self.body(images))))).mean((2, 3))


class PooledConvolution(Net):
    """As in DLA and BiT: the mean over all places, then a 1 x 1 convolution."""

    def heads(self):
        self.last = nn.Conv2d(WIDTH, CLASSES, 1, bias=False)

    def forward(self, images):
        return self.last(self.pooled(images)[..., None, None]).flatten(1)


class Distilled(Net):
    """As in LeViT: the mean of two heads, each with a norm of its own."""

    def heads(self):
        self.norm, self.norm_dist = nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH)
        self.head, self.head_dist = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES)
        nn.init.uniform_(self.norm_dist.weight)

    def forward(self, images):
        features = self.pooled(images)
        return (self.head(self.norm(features)) + self.head_dist(self.norm_dist(features))) / 2


KINDS = {
    Early: ("fc",),
    Convolution: ("last",),
    PooledConvolution: ("last",),
    Distilled: ("head", "head_dist"),
}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def net(request):
    torch.manual_seed(0)
    return request.param()


def test_the_classifier_is_what_makes_the_answers(net):
    net.train()
    assert head.find(net).names == KINDS[type(net)]
    assert all(module.training for module in net.modules())
    assert head.find(copy.deepcopy(net)).names == KINDS[type(net)]


def test_features_and_classifier_say_what_the_network_says(net):
    net.eval()
    if isinstance(net, Convolution):
        nn.init.constant_(net.last.bias, 10.0)  # so that the ReLU changes nothing
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad(), head.features(net) as seen:
        logits = net(images)
    torch.testing.assert_close(head.find(net).answers(seen[0]), logits, rtol=1e-4, atol=1e-5)


def test_a_probe_is_what_the_network_says_afterwards(net):
    net.eval()
    images, labels = torch.randn(60, 3, 16, 16), torch.arange(60) % CLASSES
    images += labels[:, None, None, None]
    with torch.no_grad(), head.features(net) as seen:
        net(images)
    fitted = probe.fit(seen[0].clone(), labels, classes=CLASSES, bias=head.find(net).biased)
    probe.fold(net, fitted)
    with torch.no_grad():
        said = net(images).softmax(1)
    # Where a ReLU stands between, single places of an image may still be below zero.
    within = 0.05 if isinstance(net, Convolution) else 1e-4
    torch.testing.assert_close(said, fitted.logits(seen[0]).softmax(1), rtol=0, atol=within)


def test_the_classifier_is_the_last_stage_alone(net):
    assert freezing.stages(net)[-1] == [net.get_submodule(name) for name in KINDS[type(net)]]
    assert not any(module in freezing.stages(net)[-1] for stage in freezing.stages(net)[:-1] for module in stage)


def test_a_new_classifier_is_of_the_same_kind(net):
    before = dict(net.named_modules())
    own.replace_head(net, 3)
    assert net.eval()(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    for name in KINDS[type(net)]:
        layer = net.get_submodule(name)
        assert type(layer) is type(before[name])
        assert layer is not before[name]
        assert (layer.bias is None) == (before[name].bias is None)
    assert head.find(net).names == KINDS[type(net)]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("torchvision:squeezenet1_1", ("classifier.1",)),
        ("timm:dla46x_c", ("fc",)),
        ("timm:levit_128s", ("head.linear", "head_dist.linear")),
        ("timm:mobilenetv3_small_050", ("classifier",)),
    ],
)
def test_classifiers_of_known_networks(model, names):
    assert head.find(sources.build(model, classes=CLASSES, size=224 if "levit" in model else 64)).names == names


def test_a_network_that_takes_one_size_only_has_its_last_linear_layer():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 20, 4))
    assert head.find(net).names == ("1",)


def test_other_classifiers_are_refused():
    with pytest.raises(PluginError, match="no linear layer and no 1 x 1 convolution"):
        head.find(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
