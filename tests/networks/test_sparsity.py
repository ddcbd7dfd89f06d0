import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tlopt.networks import sparsity
from tlopt.pruning import latency


def of_onnx(file):
    """Return for each weight of an ONNX file, with inputs in fours, whether it follows the pattern."""
    graph = onnx.load(file).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in constants:
            continue
        weight = constants[node.input[1]]
        turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        if node.op_type != "Conv" and not turned:
            weight = np.swapaxes(weight, 0, 1)
        if weight.shape[1] % 4 == 0:
            found[node.name or node.output[0]] = sparsity.follows(torch.from_numpy(weight.astype(np.float32)))
    return found


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 9, 1, groups=3), nn.Conv2d(9, 8, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


def test_the_two_largest_of_every_four_inputs_stay():
    weight = torch.tensor([[1.0, -5.0, 2.0, 3.0, 0.1, 0.2, 0.4, 0.3]])
    assert sparsity.mask(weight).tolist() == [[False, True, False, True, False, False, True, True]]


def test_a_convolutions_runs_go_along_its_inputs_at_each_place_of_the_kernel():
    weight = torch.randn(5, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    kept = sparsity.mask(weight)
    assert kept.shape == weight.shape
    assert (kept.reshape(5, 2, 4, 3, 3).sum(2) == 2).all()
    by_hand = weight[3, 4:8, 2, 1].abs().argsort()[2:]
    assert set(by_hand.tolist()) == set(kept[3, 4:8, 2, 1].nonzero().flatten().tolist())


def test_only_layers_with_a_multiple_of_four_inputs_are_sparse(model):
    sparsity.apply(model)
    sparse = {name for name, module in model.named_modules() if name in sparsity.layers(model)}
    assert sparse == {"3", "7", "11"}
    assert all(sparsity.follows(module.weight) for module in sparsity.layers(model).values())
    assert not sparsity.follows(model[0].weight)


def test_training_keeps_the_zeros_and_moves_the_rest(model):
    sparsity.apply(model)
    before = {name: module.weight.detach().clone() for name, module in sparsity.layers(model).items()}
    names = list(model.state_dict())
    with sparsity.held(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 3, 12, 12)).square().sum().backward()
            optimizer.step()
    assert sorted(model.state_dict()) == sorted(names)
    for name, module in sparsity.layers(model).items():
        assert sparsity.follows(module.weight)
        assert torch.equal(module.weight == 0, before[name] == 0)
        assert not torch.equal(module.weight, before[name])


def test_the_pattern_is_found_in_the_onnx_file(model, tmp_path):
    sparsity.apply(model)
    file = tmp_path / "sparse.onnx"
    file.write_bytes(latency.to_onnx(model, 12))
    found = of_onnx(file)
    assert len(found) == 3
    assert all(found.values())


def test_a_dense_network_is_told_from_a_sparse_one(model, tmp_path):
    file = tmp_path / "dense.onnx"
    file.write_bytes(latency.to_onnx(model, 12))
    assert not any(of_onnx(file).values())
