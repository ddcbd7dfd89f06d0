"""The ranking of networks: what its rows say, what it leaves out, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest

import tlopt
from tlopt.cli import main
from tlopt.errors import ArtifactError, ImagesError, PluginError, SettingError, StageError
from tlopt.search import rank as module
from tlopt.search.timed import Timed

QUICK = {"models": "tiny_models:cnn", "image_sizes": 32, "seconds": 0.02, "threads": 1}


@pytest.fixture
def clock(monkeypatch):
    """Say of every point how long it takes, and measure nothing."""

    def timed(point, *, batch, **_):
        ms = (1.0 if point.precision == "int8" else 2.0) * (3 if point.backend == "torch" else 1)
        spread = (0.9 * ms, 1.1 * ms)
        name = f"{point.backend}:cpu"
        return Timed(
            point=point.digest, machine="", backend=name, batch=batch, latency_ms=ms, interval_ms=spread,
            sessions_ms=spread, size_mb=1.0,
        )  # fmt: skip

    monkeypatch.setattr(module, "time_untrained", timed)


@pytest.fixture(scope="module")
def report(photos, tmp_path_factory):
    return tlopt.rank(
        photos, **{**QUICK, "models": "tiny_models:cnn,tiny_models:cnn?width=8"},
        cache_dir=tmp_path_factory.mktemp("cache"),
    )  # fmt: skip


def test_a_row_for_each_network_and_size(report):
    rows = [(row["model"], row["image_size"]) for row in report.rows]
    assert sorted(rows) == [("tiny_models:cnn", 32), ("tiny_models:cnn?width=8", 32)]
    for row in report.rows:
        assert row["low"] <= row["accuracy"] <= row["high"]
        for precision in ("fp32", "int8"):
            assert row[f"{precision}_low_ms"] < row[f"{precision}_ms"] < row[f"{precision}_high_ms"]
            assert row[f"{precision}_mb"] > 0
    accuracies = [row["accuracy"] for row in report.rows]
    assert accuracies == sorted(accuracies, reverse=True)


def test_rows_that_no_other_beats_are_marked(report):
    best = {(row["accuracy"], min(row["fp32_ms"], row["int8_ms"])) for row in report.rows if row["pareto"]}
    assert best
    for row in report.rows:
        own = (row["accuracy"], min(row["fp32_ms"], row["int8_ms"]))
        beaten = any(a >= own[0] and ms <= own[1] and (a, ms) != own for a, ms in best)
        assert row["pareto"] != beaten


def test_the_report_says_what_its_accuracy_is_worth(report):
    text = report.table(width=80)
    assert "underrated" in text
    assert max(map(len, text.splitlines())) <= 80
    assert report.title.startswith("2 networks on 42 training and validation images")
    report.check()


def test_the_test_part_is_never_looked_at(photos, tmp_path, clock):
    """Whatever the images of the test part show, the ranking stays the same."""
    folder = tlopt.scan(photos)
    test = folder.split(val=0.15, test=0.15, seed=0)["test"].files
    parts = tmp_path / "parts"
    for split, files in folder.split(val=0.15, test=0.15, seed=0).items():
        for file in files.files:
            (parts / split / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photos / file, parts / split / file)
    one = tlopt.rank(parts, **QUICK, cache_dir=tmp_path / "cache")
    assert test
    for file in test:
        (parts / "test" / file).write_bytes(b"nothing that could be read")
    other = tlopt.rank(parts, **QUICK, cache_dir=tmp_path / "other")
    assert other.rows[0]["accuracy"] == one.rows[0]["accuracy"]
    assert other.details["networks"][0]["features"]["loss"] == one.details["networks"][0]["features"]["loss"]


def test_the_fastest_backend_counts(photos, tmp_path, clock):
    report = tlopt.rank(photos, **QUICK, backend="onnxruntime,torch", cache_dir=tmp_path)
    (row,) = report.rows
    (detail,) = report.details["networks"]
    assert set(detail["sessions_ms"]["fp32"]) == {"onnxruntime:cpu", "torch:cpu"}
    assert (row["fp32_on"], row["int8_on"]) == ("onnxruntime:cpu", "onnxruntime:cpu")
    assert (row["fp32_ms"], row["int8_ms"]) == (2.0, 1.0)


def test_a_trained_artifact_is_ranked_like_any_other(photos, tuned, exported, tmp_path, clock):
    report = tlopt.rank(photos, **{**QUICK, "models": [tuned.path], "image_sizes": 64}, cache_dir=tmp_path)
    assert [(row["model"], row["image_size"]) for row in report.rows] == [(str(tuned.path), 32)]
    assert report.rows[0]["accuracy"] == tuned.card.torch.metrics["validation"]["accuracy"]
    assert any(f"{tuned.path} was trained on these images" in note for note in report.notes)
    with pytest.raises(ArtifactError, match="kind onnx"):
        tlopt.rank(photos, **{**QUICK, "models": [exported.path]}, cache_dir=tmp_path)


def test_networks_left_out_are_named(photos, tmp_path, monkeypatch, clock):
    from tlopt.search import networks

    monkeypatch.setattr(networks, "DEFAULTS", ("module:tiny_models:cnn", "pip:efficientnet_lite9"))
    given = {name: value for name, value in QUICK.items() if name != "models"}
    report = tlopt.rank(photos, **given, cache_dir=tmp_path)
    assert any("Left out: pip:efficientnet_lite9." in note for note in report.notes)


def test_a_network_whose_features_cannot_be_had_stays_a_row(photos, tmp_path, monkeypatch, clock):
    def fail(*_, **__):
        raise StageError("It has no classifier.")

    monkeypatch.setattr(module, "frozen_accuracy", fail)
    report = tlopt.rank(photos, **QUICK, cache_dir=tmp_path)
    assert report.rows[0]["accuracy"] is None
    assert report.rows[0]["fp32_ms"] > 0
    assert "tiny_models:cnn at 32 px: It has no classifier." in report.notes


def test_a_backend_that_runs_nothing_is_an_error(photos, tmp_path, monkeypatch):
    def fail(point, *, batch, **_):
        return Timed(point=point.digest, machine="", backend=point.backend, batch=batch, problem="It is broken.")

    monkeypatch.setattr(module, "time_untrained", fail)
    report = tlopt.rank(photos, **QUICK, cache_dir=tmp_path)
    assert report.rows[0]["pareto"] is False
    with pytest.raises(StageError, match=r"No network ran on onnxruntime: It is broken."):
        report.check()


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"image_sizes": 8}, SettingError, "image_sizes must be between 16 and 4096"),
        ({"image_sizes": "big"}, SettingError, "image_sizes must be a whole number"),
        ({"backend": "onnxruntim"}, PluginError, "onnxruntime"),
        ({"backend": "torch:cuda"}, StageError, "torch:cuda cannot run here: It has gone."),
        ({"models": "cnn"}, PluginError, "no artifact lies at cnn"),
        ({"val": 0.6, "test": 0.5}, SettingError, "nothing is left for training"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_measured(photos, tmp_path, monkeypatch, given, error, match):
    monkeypatch.setattr(module, "time_untrained", None)
    monkeypatch.setattr("tlopt.backends.torch.problem", lambda _: "It has gone.")
    with pytest.raises(error, match=match):
        tlopt.rank(photos, **{**QUICK, **given}, cache_dir=tmp_path)


def test_a_class_of_one_image_is_refused_before_anything_is_measured(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "time_untrained", None)
    few = shutil.copytree(photos, tmp_path / "few")
    for file in sorted((few / "red").iterdir())[1:]:
        file.write_bytes((few / "red/00.png").read_bytes())
    with pytest.raises(ImagesError, match=r"The class red of .* has one image"):
        tlopt.rank(few, **QUICK, cache_dir=tmp_path / "cache")


def test_damaged_images_are_told_before_anything_is_measured(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "time_untrained", None)
    some = shutil.copytree(photos, tmp_path / "some")
    for file in [*some.glob("*/*")][::4]:
        file.write_bytes(b"no image")
    with pytest.raises(ImagesError, match=r"images cannot be read, and more than 10% is too many to go on"):
        tlopt.rank(some, **QUICK, cache_dir=tmp_path / "cache")


def test_images_without_labels_are_refused(photos, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(photos / "red/00.png", flat)
    with pytest.raises(ImagesError):
        tlopt.rank(flat, **QUICK, cache_dir=tmp_path / "cache")


def test_the_command_prints_the_table_and_json(photos, tmp_path, capsys, clock):
    words = ["rank", str(photos), "--models", "tiny_models:cnn", "--image-sizes", "32", "--seconds", "0.02"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--cache-dir", str(tmp_path / "cache"), "--json", "--csv", str(tmp_path / "rank.csv")])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][0]["model"] == "tiny_models:cnn"
    assert (tmp_path / "rank.csv").read_text().startswith("model,image_size,accuracy,low,high,pareto,fp32_ms")


def test_a_recipe_ranks_and_keeps_the_ranking(photos, tmp_path, monkeypatch, clock):
    monkeypatch.chdir(tmp_path)
    tlopt.trust("tiny_models")
    (tmp_path / "recipe.toml").write_text(
        f'out = "runs"\n[ranking]\nrank = "{photos}"\nmodels = ["tiny_models:cnn"]\nimage_sizes = [32]\n'
        f'seconds = 0.02\ncache_dir = "{tmp_path}/cache"\n'
    )
    assert [done.state for done in tlopt.run("recipe.toml")] == ["made"]
    assert json.loads((tmp_path / "runs/ranking/rank.json").read_text())["rows"]
    assert [done.state for done in tlopt.run("recipe.toml")] == ["kept"]
    assert [done.state for done in tlopt.run("recipe.toml", force_from="ranking")] == ["made"]
