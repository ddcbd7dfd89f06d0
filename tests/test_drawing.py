import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

from tlopt.errors import MissingLibraryError, OutputExistsError
from tlopt.measure.find_lr import find_lr
from tlopt.publishing import PICTURE, check_file
from tlopt.reports.bars import bars
from tlopt.reports.picture import Point, picture
from tlopt.training.outcome import pictures, records
from tlopt.training.outcome.history import History

POINT = Point(label="a", precision="fp32", runtime="torch", latency_ms=1.0, accuracy=0.5, low=0.4, high=0.6)


def test_settings_that_matplotlib_found_change_no_picture(tmp_path):
    def drawn():
        pictures.confusion_matrix(np.eye(2, dtype=int), ("a", "b"), tmp_path / "a.svg")
        return [(tmp_path / "a.svg").read_text(), bars([("a", "Conv", 1.0)], {"Conv": 1.0}, title=""), picture([POINT])]

    plain = drawn()
    # With this, LaTeX would be started for every text.
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30}):
        assert drawn() == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_a_pipe_called_as_matplotlibs_settings_lets_nobody_wait(tmp_path):
    os.mkfifo(tmp_path / "matplotlibrc")
    code = "from tlopt.reports.bars import bars; bars([('a', 'Conv', 1.0)], {'Conv': 1.0}, title='')"
    search = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=search, capture_output=True, text=True, check=False
    )
    assert "matplotlibrc is a named pipe" in ended.stderr


def test_a_picture_that_cannot_be_drawn_costs_no_training(tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("latex was not found")

    monkeypatch.setattr(pictures, "confusion_matrix", broken)
    logits = np.eye(2, dtype=np.float32)
    outcome = SimpleNamespace(logits=logits, labels=np.array([0, 1]), answers=None, details={}, history=History())
    with caplog.at_level(logging.WARNING, "tlopt"):
        records.write(tmp_path, outcome, ("a", "b"))
    assert "no pictures of the training: latex was not found" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_picture_replaces_an_older_one(tmp_path):
    curve, profile = tmp_path / "lr.svg", tmp_path / "layers.svg"
    pictures.range_test_curve(np.array([0.1, 1.0]), np.array([1.0, 2.0]), 0.1, curve)
    profile.write_text(bars([("a", "Conv", 1.0)], {"Conv": 1.0}, title=""))
    for file in (curve, profile):
        check_file(file, makes=PICTURE)


def test_find_lr_draws_over_no_image(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        (tmp_path / "images" / name).write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="which this command reads"):
        find_lr(tmp_path / "images", model="timm:test_efficientnet", plot=tmp_path / "images/a/1.png")
    assert (tmp_path / "images/a/1.png").read_bytes() == b"mine"


def test_a_missing_tensorboard_is_told_before_the_training(tmp_path, monkeypatch):
    import tlopt

    (tmp_path / "images/a").mkdir(parents=True)
    (tmp_path / "images/b").mkdir()
    for name in ("a", "b"):
        for i in range(4):
            (tmp_path / f"images/{name}/{i}.png").write_bytes(b"never decoded")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingLibraryError, match="tensorboard"):
        tlopt.finetune(tmp_path / "images", tmp_path / "out", model="timm:test_efficientnet", tensorboard=True)
