"""Whose code runs when a model is opened."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tlopt
from tlopt import sources, trusted
from tlopt.artifact import Artifact, seal
from tlopt.cards.card import Card
from tlopt.cards.details import TorchDetails
from tlopt.errors import PluginError, SettingError, TloptError
from tlopt.networks import weights
from tlopt.preprocess import Preprocess
from tlopt.sources._naming import parse
from tlopt.trusted import memory, places

MODULE = """
from pathlib import Path
from torch import nn

with Path({mark!r}).open("a") as file:
    file.write("imported ")


def net(classes, width=4):
    with Path({mark!r}).open("a") as file:
        file.write("called ")
    return nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
"""


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch, tmp_path):
    """Begin as a new process of a user who has named nothing yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(trusted.VARIABLE, raising=False)
    for name, empty in (("_modules", set()), ("_allowed", set()), ("_folders", {})):
        monkeypatch.setattr(trusted, name, empty)


def forget(monkeypatch, *modules):
    """Go on as a new process."""
    for name, empty in (("_modules", set()), ("_allowed", set()), ("_folders", {})):
        monkeypatch.setattr(trusted, name, empty)
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module in a folder that Python does not search, which leaves a mark when it runs."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own_net.py").write_text(MODULE.format(mark=str(tmp_path / "mark")))
    monkeypatch.chdir(folder)
    yield folder
    sys.modules.pop("own_net", None)


def ran(tmp_path) -> str:
    mark = tmp_path / "mark"
    return mark.read_text() if mark.exists() else ""


def artifact(folder: Path, model: str) -> Artifact:
    """An artifact whose card says this of the model; its weights fit `own_net:net`."""
    folder.mkdir()
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, 2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)
    )
    details = TorchDetails(groups=weights.save(network, folder))
    card = Card(
        kind="torch", model=model, precision="fp32", classes=("blue", "green", "red"),
        preprocess=Preprocess(size=32), details=details,
    )  # fmt: skip
    seal(folder, card)
    return Artifact.load(folder)


ATTACKS = {
    "forkserver": "multiprocessing.forkserver:main?alive_r=0&preload=['__main__']&main_path='{folder}/code.py'",
    "plug-in by its own name": "module:own_net:net",
    "beside it": "own_net:net",
    "library": "timm.models:create_model",
    "hub": "timm:hf-hub:someone/something",
    "hub's other name": "timm:hf_hub:someone/something",
    "local folder": "timm:local-dir:{folder}",
    "checkpoint": "timm:resnet10t?checkpoint_path='{folder}/model.safetensors'",
    "configuration": "timm:resnet10t?pretrained_cfg={{'file':'{folder}/model.safetensors'}}",
    "pretrained": "timm:resnet10t?pretrained=True",
    "weights": "torchvision:resnet18?weights='DEFAULT'",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_card_makes_no_code_run_and_nothing_download(attack, mine, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network is reached")

    monkeypatch.setattr("socket.socket.connect", refuse)
    evil = artifact(tmp_path / "evil", ATTACKS[attack].format(folder=tmp_path / "evil"))
    (tmp_path / "evil" / "code.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').write('ran')")
    with pytest.raises(TloptError) as told:
        tlopt.open_model(evil)
    assert told.value.exit_code in (1, 2)
    assert "\n" not in told.value.message
    assert ran(tmp_path) == ""


def test_the_refusal_names_the_option(mine, tmp_path):
    with pytest.raises(PluginError, match=r"own_net:net of .*evil is of no source .* not run unasked") as told:
        tlopt.open_model(artifact(tmp_path / "evil", "own_net:net"))
    assert "--trust own_net" in told.value.hint
    assert "tlopt.trust('own_net')" in told.value.hint


@pytest.mark.parametrize("verb", ["predict", "evaluate", "export", "prune", "bench", "report", "finetune", "teacher"])
@pytest.mark.slow
def test_every_verb_refuses(verb, mine, tmp_path, photos):
    evil, out = artifact(tmp_path / "evil", "own_net:net"), tmp_path / "out"
    calls = {
        "predict": lambda: list(tlopt.predict(evil, photos)),
        "evaluate": lambda: tlopt.evaluate(evil, images=photos),
        "export": lambda: tlopt.export(evil, out),
        "prune": lambda: tlopt.prune(evil, out, images=photos),
        "bench": lambda: tlopt.bench([evil], seconds=0.01),
        "report": lambda: tlopt.report([evil], out, images=photos, seconds=0.01),
        "finetune": lambda: tlopt.finetune(trained(evil, photos), out),
        "teacher": lambda: tlopt.finetune(
            photos, out, model="tiny_models:cnn", teacher=evil.path, image_size=32, epochs=1
        ),
    }
    with pytest.raises(TloptError, match="not run unasked"):
        calls[verb]()
    assert ran(tmp_path) == ""
    assert not out.exists()


def trained(evil: Artifact, photos: Path) -> Path:
    """Let the card say that the artifact was trained on these photos."""
    ref = tlopt.ImagesRef(path=str(photos), digest=tlopt.scan(photos).digest, val=0.2, test=0.0, seed=0)
    seal(evil.path, replace(evil.card, images=ref))
    return evil.path


def test_a_model_named_by_hand_runs_and_its_artifacts_open_in_later_processes(mine, tmp_path, monkeypatch):
    sources.load("own_net:net", classes=3)
    made = artifact(tmp_path / "made", "own_net:net")
    monkeypatch.chdir(tmp_path)
    forget(monkeypatch, "own_net")
    assert isinstance(tlopt.open_model(made), torch.nn.Module)
    assert "own_net" in sys.modules
    assert str(mine) not in sys.path


def test_what_is_remembered_is_the_call_and_not_the_module(mine, tmp_path, monkeypatch):
    sources.load("own_net:net", classes=3)
    forget(monkeypatch, "own_net")
    for model in ("own_net:other", "own_net:net?width=5"):
        with pytest.raises(PluginError, match="not run unasked"):
            tlopt.open_model(artifact(tmp_path / model.replace("?", "-"), model))


def test_a_module_that_changed_is_asked_about_again_and_once(mine, tmp_path, monkeypatch):
    sources.load("own_net:net", classes=3)
    made = artifact(tmp_path / "made", "own_net:net")
    forget(monkeypatch, "own_net")
    (mine / "own_net.py").write_text((mine / "own_net.py").read_text() + "\n# changed\n")
    with pytest.raises(PluginError, match=r"has changed, or moved") as told:
        tlopt.open_model(made)
    assert "--trust own_net" in told.value.hint
    with trusted.trusting(["own_net"]):
        tlopt.open_model(made)
    forget(monkeypatch, "own_net")
    tlopt.open_model(made)


def test_another_module_of_the_name_in_the_folder_of_today_is_not_run(mine, tmp_path, monkeypatch):
    sources.load("own_net:net", classes=3)
    made = artifact(tmp_path / "made", "own_net:net")
    forget(monkeypatch, "own_net")
    (tmp_path / "downloaded").mkdir()
    (tmp_path / "downloaded" / "own_net.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path / "downloaded")
    tlopt.open_model(made)
    assert Path(sys.modules["own_net"].__file__).parent == mine


def test_another_module_of_the_name_that_python_finds_first_is_refused(mine, tmp_path, monkeypatch):
    sources.load("own_net:net", classes=3)
    made = artifact(tmp_path / "made", "own_net:net")
    forget(monkeypatch, "own_net")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "own_net.py").write_text("raise SystemExit(7)")
    monkeypatch.syspath_prepend(tmp_path / "other")
    with pytest.raises(PluginError, match="has changed, or moved"):
        tlopt.open_model(made)


def test_modules_are_trusted_by_option_by_variable_and_from_python(mine, tmp_path, monkeypatch):
    made = artifact(tmp_path / "made", "own_net:net")
    with trusted.trusting(["own_net"]):
        tlopt.open_model(made)
    forget(monkeypatch, "own_net")
    with pytest.raises(PluginError):
        tlopt.open_model(made)
    tlopt.trust("own_net")
    tlopt.open_model(made)
    forget(monkeypatch, "own_net")
    monkeypatch.syspath_prepend(mine)
    monkeypatch.setenv(trusted.VARIABLE, "other, own_net")
    tlopt.open_model(made)


def test_the_variable_does_not_speak_of_the_current_folder(mine, tmp_path, monkeypatch):
    monkeypatch.setenv(trusted.VARIABLE, "own_net")
    with pytest.raises(PluginError, match="cannot be imported"):
        tlopt.open_model(artifact(tmp_path / "made", "own_net:net"))
    assert ran(tmp_path) == ""


def test_what_a_recipe_names_is_not_named_by_hand(mine, tmp_path, photos):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'out = "{tmp_path}/runs"\n[tuned]\nfinetune = "{photos}"\nmodel = "own_net:net"\n')
    with pytest.raises(PluginError, match="not run unasked"):
        list(tlopt.run(recipe))
    assert ran(tmp_path) == ""


def test_names_that_are_no_modules_cannot_be_trusted():
    with pytest.raises(SettingError, match="is not the name of a module"):
        tlopt.trust("own_net:net")


def test_modules_of_python_itself_cannot_be_trusted(tmp_path):
    with pytest.raises(SettingError, match="subprocess is part of Python"):
        tlopt.trust("subprocess")
    with pytest.raises(PluginError) as told:
        tlopt.open_model(artifact(tmp_path / "evil", "subprocess:run?args='true'"))
    assert "--trust" not in told.value.hint


def test_a_package_is_not_imported_to_find_what_lies_in_it(tmp_path, monkeypatch):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("raise SystemExit(7)")
    (tmp_path / "own_package" / "nets.py").write_text("")
    place = places.locate("own_package.nets", [str(tmp_path)])
    assert place is not None
    assert (place.file, place.folder) == (str(tmp_path / "own_package" / "nets.py"), str(tmp_path))
    (tmp_path / "own_package" / "__init__.py").write_text("raise SystemExit(8)")
    assert places.locate("own_package.nets", [str(tmp_path)]).sha256 != place.sha256


def test_the_list_is_private_and_one_that_others_can_write_is_passed_over(mine, tmp_path, monkeypatch):
    sources.load("own_net:net", classes=3)
    file = tmp_path / "config" / "tlopt" / "trusted.json"
    assert file.stat().st_mode & 0o777 == 0o600
    forget(monkeypatch, "own_net")
    file.chmod(0o666)
    with pytest.raises(PluginError, match="not run unasked"):
        tlopt.open_model(artifact(tmp_path / "made", "own_net:net"))


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '[{"model": "x"}]', "\xff", "[[[", "null"])
def test_a_damaged_list_is_begun_anew(content, mine, tmp_path, monkeypatch):
    file = tmp_path / "config" / "tlopt" / "trusted.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content.encode("latin-1"))
    sources.load("own_net:net", classes=3)
    assert [entry["model"] for entry in json.loads(file.read_text())] == ["own_net:net"]


def test_a_pipe_in_the_place_of_the_list_stops_nothing(mine, tmp_path):
    file = tmp_path / "config" / "tlopt" / "trusted.json"
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    sources.load("own_net:net", classes=3)


def test_options_are_plain_values():
    for given, wanted in (("3", 3), ("'a'", "a"), ("same", "same"), ("(1, 2)", (1, 2)), ("None", None)):
        assert parse(f"timm:resnet10t?x={given}").options == {"x": wanted}
    for given in ("b'1'", "{1, 2}", "1j", "...", "(" * 300, "__import__('os')"):
        assert parse(f"timm:resnet10t?x={given}").options == {"x": given}


def test_an_option_that_the_library_does_not_take_is_an_error_of_the_name():
    with pytest.raises(PluginError, match="cannot be built with its options"):
        sources.build("timm:resnet10t?nonsense=1", classes=2, size=32)


def test_a_link_in_the_place_of_the_list_stays_one(tmp_path):
    kept = tmp_path / "dotfiles" / "trusted.json"
    kept.parent.mkdir()
    link = tmp_path / "config" / "tlopt" / "trusted.json"
    link.parent.mkdir(parents=True)
    link.symlink_to(kept)
    memory.remember("json:loads", "")
    assert link.is_symlink()
    assert [name for name, _ in memory.entries()] == ["json:loads"]
    assert "json:loads" in kept.read_text()
