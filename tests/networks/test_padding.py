import pytest
import torch
from torch import nn

from tlopt import sources
from tlopt.networks import padding
from tlopt.sources import timm as source


@pytest.mark.parametrize("size", [32, 33, 40])
def test_fixed_padding_computes_what_the_dynamic_one_does(size):
    torch.manual_seed(0)
    dynamic = source.build("mobilenetv2_035", classes=4, pad_type="same").eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = dynamic(images)
        fixed = padding.fix(dynamic, size)
        assert torch.equal(fixed(images), expected)
    assert not any(type(module).__name__ == "Conv2dSame" for module in fixed.modules())


def test_names_and_weights_stay():
    dynamic = source.build("mobilenetv2_035", classes=4, pad_type="same")
    before = {name: tensor.clone() for name, tensor in dynamic.state_dict().items()}
    after = padding.fix(dynamic, 32).state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_network_without_such_convolutions_is_returned_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert padding.fix(model, 8) is model
    assert type(model[0]) is nn.Conv2d


def test_even_padding_becomes_a_plain_convolution():
    model = sources.build("timm:mobilenetv2_035?pad_type=same", classes=4, size=33)
    strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert all(type(module) is nn.Conv2d for module in strided)


def test_a_padded_convolution_is_copied_and_moved_like_any_other():
    import copy

    model = sources.build("timm:mobilenetv2_035?pad_type=same", classes=4, size=32).eval()
    assert any(isinstance(module, padding.PaddedConv2d) for module in model.modules())
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(copy.deepcopy(model)(images), model(images))
