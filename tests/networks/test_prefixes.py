import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tlopt import sources
from tlopt.errors import ArtifactError


@pytest.fixture
def state():
    torch.manual_seed(0)
    return dict(sources.build("tiny_models:cnn", classes=3, size=32).state_dict())


def loaded(state, file):
    save_file(state, file)
    return sources.load("tiny_models:cnn", classes=3, size=32, weights_file=file)[0].state_dict()


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module.model._orig_mod.", "student.net."])
def test_names_behind_a_prefix_are_the_model_s(tmp_path, state, prefix):
    found = loaded({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "w.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_other_tensors_beside_the_prefix_are_not_read(tmp_path, state):
    given = {**{f"model.{name}": tensor for name, tensor in state.items()}, "loss.weight": torch.ones(3)}
    assert loaded(given, tmp_path / "w.safetensors").keys() == state.keys()


def test_a_part_of_the_names_may_have_a_prefix(tmp_path, state):
    head = sorted(state)[-1].rpartition(".")[0]
    given = {name if name.startswith(head) else f"backbone.{name}": tensor for name, tensor in state.items()}
    assert any(name.startswith("backbone.") for name in given)
    assert any(not name.startswith("backbone.") for name in given)
    assert loaded(given, tmp_path / "w.safetensors").keys() == state.keys()


def test_two_networks_in_a_file_are_told(tmp_path, state):
    given = {f"{prefix}.{name}": tensor.clone() for name, tensor in state.items() for prefix in ("ema", "model")}
    with pytest.raises(ArtifactError, match=r"holds 2 networks of this kind, with the prefixes 'ema\.' and 'model\.'"):
        loaded(given, tmp_path / "w.safetensors")


def test_an_error_names_the_prefix(tmp_path, state):
    given = {f"what.{name}": tensor for name, tensor in state.items()}
    del given[sorted(given)[0]]
    with pytest.raises(ArtifactError, match=rf"{len(given)} of its names are the model's behind the prefix 'what\.'"):
        loaded(given, tmp_path / "w.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_file_of_torch_save_is_refused_with_the_command_that_converts_it(tmp_path, state, wrapper):
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    with pytest.raises(ArtifactError, match=r"w\.pth is a pickle of torch\.save") as error:
        sources.load("tiny_models:cnn", classes=3, size=32, weights_file=tmp_path / "w.pth")
    code = error.value.hint.partition('"')[2].rpartition('"')[0]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert load_file(tmp_path / "w.safetensors").keys() == state.keys()
