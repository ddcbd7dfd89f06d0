from __future__ import annotations

import json

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file

import tlopt
from tlopt import sources
from tlopt.errors import ArtifactError, PluginError
from tlopt.sources import hf
from tlopt.sources.timm import timm

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architecture": "test_efficientnet",
    "num_classes": 3,
    "label_names": ["cat", "dog", "emu"],
    "model_args": {"drop_rate": 0.1},
    "pretrained_cfg": {
        "input_size": [3, 64, 64], "crop_pct": 0.9, "interpolation": "bilinear", "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
}  # fmt: skip


class Hub:
    """A hub with one repository, laid out as the client's cache is."""

    def __init__(self, folder):
        self.folder, self.asked, self.online = folder / "snapshots" / COMMIT, [], True
        self.folder.mkdir(parents=True)
        self.say(CONFIG)
        torch.manual_seed(0)
        network = timm.create_model("test_efficientnet", num_classes=3)
        save_file(network.state_dict(), self.folder / "model.safetensors")
        self.network = network.eval()

    def say(self, config):
        (self.folder / "config.json").write_text(json.dumps(config))

    def download(self, repository, file, *, revision=None):
        self.asked.append((repository, revision))
        if not self.online:
            raise LocalEntryNotFoundError("Cannot find the file in the disk cache and outgoing traffic is disabled")
        if repository != "org/net" or not (self.folder / file).exists():
            raise EntryNotFoundError("404")
        return str(self.folder / file)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.download)
    return made


def test_a_model_of_a_hub_answers_as_it_does_there(hub):
    model, preprocess = sources.load("hf:org/net", classes=0)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.eval()(images), hub.network(images))
    assert (preprocess.size, preprocess.crop_ratio, preprocess.interpolation) == (64, 0.9, "bilinear")
    assert preprocess.mean == (0.5, 0.5, 0.5)


def test_an_artifact_keeps_commit_and_architecture_and_opens_without_the_hub(hub, tmp_path, caplog):
    with caplog.at_level("INFO", "tlopt"):
        artifact = tlopt.import_model(None, tmp_path / "out", model="hf:org/net@main")
    assert "3 classes" in caplog.text
    assert "ImageNet" not in caplog.text
    assert hub.asked[0] == ("org/net", "main")
    assert artifact.card.classes == ("cat", "dog", "emu")
    assert artifact.card.model == f"hf:org/net@{COMMIT}?architecture=test_efficientnet&drop_rate=0.1"
    hub.online = False
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(sources.open_model(artifact)(images), hub.network(images))


def test_it_is_fine_tuned(hub, photos, tmp_path):
    artifact = tlopt.finetune(
        photos, tmp_path / "tuned", model="hf:org/net", method="head", image_size=32, cache_dir=tmp_path / "cache"
    )
    assert artifact.card.model.startswith(f"hf:org/net@{COMMIT}?")
    hub.online = False
    assert len(list(tlopt.predict(artifact, photos / "red"))) == 16


def test_a_pinned_name_is_the_same_model(hub):
    name = sources.pinned("hf:org/net")
    assert sources.pinned(name) == name
    model, _ = sources.load(name, classes=5)
    assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 5)


def test_without_the_hub_it_says_so(hub):
    hub.online = False
    with pytest.raises(PluginError, match=r"hf:org/net cannot be used: config\.json cannot be reached: Cannot find"):
        sources.load("hf:org/net", classes=0)


def test_weights_that_are_no_safetensors_are_not_read(hub):
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    with pytest.raises(PluginError, match=r"it has no model\.safetensors"):
        sources.load("hf:org/net", classes=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": None}, "no network of timm"),
        ({"num_classes": "many"}, "number of classes"),
        ({"model_args": {"pretrained": True}}, "sets pretrained"),
        ({"model_args": {"act_layer": {"a": 1}}}, "act_layer"),
        ({"pretrained_cfg": {"input_size": [3, 64, 64]}}, "mean"),
        ({"architecture": "no_such_network"}, "timm has no model"),
    ],
)
def test_what_makes_no_sense_is_refused(change, said, hub):
    hub.say({**CONFIG, **change})
    with pytest.raises(PluginError, match=said):
        sources.load("hf:org/net", classes=0)


def test_a_damaged_description_is_refused(hub):
    (hub.folder / "config.json").write_text("{")
    with pytest.raises(PluginError, match=r"config\.json cannot be read"):
        hf.class_names("org/net")


def test_other_weights_are_refused(hub):
    hub.say({**CONFIG, "num_classes": 4})
    with pytest.raises(ArtifactError, match="do not fit"):
        sources.load("hf:org/net", classes=0)


@pytest.mark.parametrize("name", ["net", "org/net/x", "../x/y", "org/net@"])
def test_wrong_names_are_refused(name, hub):
    with pytest.raises(PluginError, match=r"named hf:ORG/NAME|cannot be used"):
        sources.load(f"hf:{name}", classes=0)
