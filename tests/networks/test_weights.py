import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tlopt.errors import ArtifactError
from tlopt.networks import weights


class Net(nn.Module):
    """One of each kind of layer that has a width."""

    def __init__(self, width=8, groups=2):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width, bias=False)
        self.grouped = nn.Conv2d(width, width, 1, groups=groups)
        self.group_norm = nn.GroupNorm(2, width)
        self.layer_norm = nn.LayerNorm(width)
        self.gamma = nn.Parameter(torch.rand(width))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.group_norm(self.grouped(self.depthwise(self.norm(self.conv(x)))))
        return self.head(self.layer_norm(x.mean((2, 3))) * self.gamma)


def saved(model, tmp_path):
    groups = weights.save(model, tmp_path)
    return weights.read(tmp_path / weights.FILE), groups


def test_weights_come_back_as_they_were_saved(tmp_path):
    model = Net().eval()
    state, groups = saved(model, tmp_path)
    restored = weights.restore(Net(), state, groups=groups, where="it").eval()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(restored(images), model(images))
    assert groups == {"depthwise": 8, "grouped": 2}


def test_a_wide_architecture_takes_on_the_widths_of_narrow_weights(tmp_path):
    narrow = Net(width=6, groups=3).eval()
    state, groups = saved(narrow, tmp_path)
    restored = weights.restore(Net(width=16, groups=2), state, groups=groups, where="it").eval()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(restored(images), narrow(images))
    assert (restored.conv.out_channels, restored.norm.num_features, restored.head.in_features) == (6, 6, 6)
    assert (restored.depthwise.groups, restored.depthwise.in_channels) == (6, 6)
    assert (restored.grouped.groups, restored.grouped.in_channels) == (3, 6)
    assert restored.layer_norm.normalized_shape == (6,)
    assert restored.group_norm.num_channels == 6


def test_a_restored_network_trains(tmp_path):
    state, groups = saved(Net(width=6, groups=3), tmp_path)
    restored = weights.restore(Net(width=16), state, groups=groups, where="it")
    restored(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in restored.parameters())


def test_widths_are_restored_without_a_list_of_groups(tmp_path):
    """A file of another tool's has no card: depthwise convolutions are told by their shape."""
    narrow = Net(width=6).eval()
    state, _ = saved(narrow, tmp_path)
    restored = weights.restore(Net(width=16), state, groups={}, where="it").eval()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(restored(images), narrow(images))


def test_a_missing_tensor_is_named(tmp_path):
    state, groups = saved(Net(), tmp_path)
    del state["head.bias"]
    with pytest.raises(ArtifactError, match=r"it does not fit the architecture: 1 missing \(head\.bias\)"):
        weights.restore(Net(), state, groups=groups, where="it")


def test_a_tensor_left_over_is_named(tmp_path):
    state, groups = saved(Net(), tmp_path)
    with pytest.raises(ArtifactError, match=r"1 left over \(extra\)"):
        weights.restore(Net(), {**state, "extra": torch.zeros(1)}, groups=groups, where="it")


def test_a_tensor_of_another_rank_is_refused(tmp_path):
    state, groups = saved(Net(), tmp_path)
    with pytest.raises(ArtifactError, match=r"head\.weight has shape \(3, 8, 1, 1\), the architecture \(3, 8\)"):
        weights.restore(Net(), {**state, "head.weight": torch.zeros(3, 8, 1, 1)}, groups=groups, where="it")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"not at all")
    with pytest.raises(ArtifactError, match="cannot be read as a safetensors file"):
        weights.read(file)


def test_weights_that_share_memory_are_saved(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    weights.save(model, tmp_path)
    assert torch.equal(weights.read(tmp_path / weights.FILE)["1.weight"], model[0].weight)


def test_widths_that_do_not_go_together_are_refused(tmp_path):
    state, groups = saved(Net(), tmp_path)
    file = tmp_path / "other.safetensors"
    save_file({**state, "norm.weight": torch.ones(5)}, file)
    with pytest.raises(ArtifactError, match=r"norm\.weight has 5 channels, but the layer's other tensors have 8"):
        weights.restore(Net(), weights.read(file), groups=groups, where="it")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value, tmp_path):
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 1] = value
    weights.save(model, tmp_path)
    with pytest.raises(ArtifactError, match=r"the weights 'weight' hold numbers that are not finite"):
        weights.read(tmp_path / weights.FILE)
