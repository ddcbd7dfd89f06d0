"""Every example of the help runs, in the order of the table, as a user would type it."""

from __future__ import annotations

import contextlib
import importlib
import shlex
import shutil
from types import SimpleNamespace

import pytest
import tiny_models
from calling import called

from tlopt.preprocess import Preprocess
from tlopt.process import programs
from tlopt.publishing import check_file
from tlopt.reports import table_kinds
from tlopt.sources import pip
from tlopt.verbs import TABLE

served = importlib.import_module("tlopt.deployment.serve")
roofline = importlib.import_module("tlopt.measure.roofline")
pruning = importlib.import_module("tlopt.stages.prune")

# A clock is not what is tested: measured times are cut short. The tiny network has no class names of its own.
MORE = {
    "optimize": [
        *("--latency-ms", "1000", "--models", "pip:efficientnet_lite0", "--image-sizes", "32", "--epochs", "1"),
        *("--precisions", "fp32", "--backend", "onnxruntime"),
    ],
    "import": ["--classes", "classes.txt"],
    "bench": ["--seconds", "0.01", "--no-memory"],
    "choose": ["--seconds", "0.01"],
    "loadgen": ["--seconds", "0.1"],
    "rank": ["--seconds", "0.01", "--image-sizes", "32"],
    "report": ["--seconds", "0.01"],
    "roofline": ["--seconds", "0.01"],
    "serve": ["--port", str(programs.free_ports(1)[0])],
}


@pytest.fixture
def desk(photos, tmp_path):
    """A folder like the one that the examples are typed in."""
    folder = tmp_path / "desk"
    folder.mkdir()
    (folder / "images").symlink_to(photos)
    shutil.copytree(photos, folder / "more")
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    (folder / "recipe.toml").write_text('out = "runs"\n[tiny]\nfinetune = "images"\n')
    return folder


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    """Put a tiny network with three classes of its own in the place of the pretrained one."""
    monkeypatch.setattr(pip, "build", lambda _, *, classes: tiny_models.cnn(classes))
    monkeypatch.setattr(pip, "load", lambda _, *, classes: _loaded(tiny_models.cnn(classes or 3)))


def _loaded(model):
    return model, Preprocess.from_dict(model.preprocess)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Cut short what is the same for longer: a machine's peaks, and the training after a cut."""
    monkeypatch.setattr(pruning, "_STEPS", 10)
    monkeypatch.setitem(roofline._fastest.__kwdefaults__, "seconds", 0.02)


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    """Put a server in the place of the real one, which may be missing here and would run for ever."""
    monkeypatch.setattr(served.environment, "find", lambda _: None)
    monkeypatch.setattr(served, "serving", lambda *_: contextlib.nullcontext(SimpleNamespace(version="2.51.0")))
    monkeypatch.setattr(served, "_wait", lambda *_: None)


def table_files(options):
    """Return the tables that some options name, each with its kind."""
    return [(option.lstrip("-"), file) for option, file in zip(options[::2], options[1::2], strict=True)]


@pytest.mark.slow
def test_the_examples_of_the_commands_run_one_after_the_other(desk, capsys, monkeypatch):
    monkeypatch.chdir(desk)
    failed = {}
    for name, verb in TABLE.items():
        tables = ["--csv", f"{name}.csv", "--markdown", f"{name}.md"] if verb.tables else []
        code, out, err = called(capsys, *shlex.split(verb.example)[1:], *MORE.get(name, []), *tables)
        if code:
            failed[name] = out + err
            continue
        for kind, file in table_files(tables):  # the same command replaces them
            check_file(file, makes=table_kinds(name, verb.tables)[kind])
    assert not failed, "\n".join(f"{name}: {text}" for name, text in failed.items())
