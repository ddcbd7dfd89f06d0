from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
from calling import called
from interruptions import interrupt_after
from searches import timed
from tiny_images import write_photos
from two_processes import _ended, _started

import tlopt
from tlopt import backends, progress
from tlopt.artifact import Artifact
from tlopt.errors import (
    ArtifactError,
    ImagesError,
    OutputError,
    OutputExistsError,
    PluginError,
    SettingError,
    StageError,
    StudyError,
)
from tlopt.search import networks
from tlopt.search import optimize as module
from tlopt.search.funnel import worker
from tlopt.search.space import Point
from tlopt.search.study import folder

MODELS = ("tiny_models:cnn",)
FAST = {
    "models": MODELS,
    "image_sizes": (32,),
    "epochs": 2,
    "backend": ("onnxruntime",),
    "precisions": ("fp32",),  # int8 has its test with an artifact
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("images") / "images", per_class=20)


@pytest.fixture(autouse=True, scope="module")
def _trusted():
    tlopt.trust("tiny_models")


def _timed(*given, **more):
    """Return a timing that no clock decided: int8 is twice as fast."""
    point = next(one for one in given if isinstance(one, Point))
    return dataclasses.replace(timed({"fp32": 4.0, "int8": 2.0}[point.precision]), point=point.digest)


@pytest.fixture(scope="module")
def steady():
    """The same latencies in every run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "time_untrained", _timed)
        patch.setattr(worker, "time_artifact", _timed)
        yield


@pytest.fixture(scope="module")
def found(images, tmp_path_factory, steady):
    """A search that is finished."""
    out = tmp_path_factory.mktemp("search") / "out"
    return tlopt.optimize(images, out, latency_ms=1000.0, keep="all", **FAST)


@pytest.mark.slow
def test_images_become_the_best_classifier_of_the_budget(found, images):
    best = found.best
    assert best.path == found.path / "best"
    assert best.card.kind == "onnx"
    assert best.card.images.digest
    report = json.loads((found.path / "report.json").read_text())
    assert report["rows"][0]["outcome"] == "the answer"
    assert report["details"]["overhead"] < 0.5
    assert any("test images, which decided nothing" in note for note in report["notes"])
    page = (found.path / "report.html").read_text()
    assert "<svg" in page
    assert "What it cost" in page
    assert tlopt.evaluate(best).top1 > 0.6


@pytest.mark.slow
def test_a_finished_search_is_not_done_again(found, images, monkeypatch):
    from tlopt.search import searching

    monkeypatch.setattr(searching, "search", None)
    again = tlopt.optimize(images, found.path, latency_ms=1000.0, keep="all", **FAST)
    assert again.report.rows == found.report.rows
    assert again.report.more[0].rows == found.report.more[0].rows


def test_an_answer_does_not_stand_for_a_network_whose_code_was_changed(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(module, "_finished", lambda _, quick: seen.append(quick) or "an answer")
    for content in ("width = 1", "width = 1", "width = 2"):
        (tmp_path / "my_nets.py").write_text(content)
        assert tlopt.optimize(images, tmp_path / "out", latency_ms=1.0, models=["my_nets:small"]) == "an answer"
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["report.json", "report.html"])
def test_the_report_of_a_finished_search_is_written_anew_from_its_study(found, images, monkeypatch, gone):
    monkeypatch.setattr(worker.Worker, "run", None)
    (found.path / gone).unlink()
    again = tlopt.optimize(images, found.path, latency_ms=1000.0, keep="all", **FAST)
    assert again.report.rows == found.report.rows
    assert again.best.digest == found.best.digest
    assert (found.path / gone).exists()


@pytest.mark.slow
def test_status_tells_what_was_found(found, capsys):
    code, out, err = called(capsys, "optimize", "--status", found.path)
    assert (code, err) == (0, "")
    assert "finished" in out
    assert "the answer" in out


@pytest.mark.slow
def test_the_folder_of_another_search_is_refused_and_replaced_only_by_force(found, images, tmp_path):
    with pytest.raises(OutputExistsError, match="What differs: budget") as caught:
        tlopt.optimize(images, found.path, latency_ms=500.0, **FAST)
    assert "--force" in caught.value.hint
    (found.path / "mine.txt").write_text("kept")
    with pytest.raises(OutputExistsError, match=r"mine\.txt would be lost"):
        tlopt.optimize(images, found.path, latency_ms=500.0, force=True, **FAST)
    (found.path / "mine.txt").unlink()
    with pytest.raises(OutputExistsError, match="is a search: --force does not replace it with an artifact"):
        tlopt.finetune(images, found.path, model=MODELS[0], force=True)


@pytest.mark.slow
def test_ctrl_c_leaves_a_search_that_the_same_command_goes_on_with(images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    given = {"latency_ms": 1000.0, "keep": "all", **FAST}
    token = progress.display.set(interrupt_after(4))
    try:
        with pytest.raises(KeyboardInterrupt):
            tlopt.optimize(images, out, **given)
    finally:
        progress.display.reset(token)
    status = tlopt.optimize(status=out)
    assert "not finished" in status.report.title
    assert status.report.rows == ()  # nothing runs
    before = {card: card.stat().st_mtime_ns for card in (out / "work").glob("*/artifact.json")}
    assert before
    assert list((out / "work").glob(".finetune-*.checkpoint/checkpoint.safetensors"))
    assert tlopt.optimize(images, out, **given).best is not None
    assert before == {card: card.stat().st_mtime_ns for card in before}


@pytest.mark.slow
def test_nothing_within_the_budget_ends_with_3_and_the_same_report(images, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["optimize", images, "-o", out, "--latency-ms", "1e-4", "--models", MODELS[0], "--image-sizes", "32"]
    command += ["--trust", "tiny_models", "--backend", "onnxruntime"]
    for _ in range(2):
        code, shown, err = called(capsys, *command)
        assert code == 3
        assert "Nothing keeps to the budget of 0.0001 ms a run" in err
        assert "dropped" in shown
    assert not (out / "best").exists()
    assert (out / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_an_artifact_is_compressed_to_the_budget(kind, tuned, exported, tmp_path):
    source = tuned if kind == "torch" else exported
    study = tlopt.optimize(
        source.path,
        tmp_path / "out",
        latency_ms=1000.0,
        backend=("onnxruntime",),
        precisions=("fp32", "int8") if kind == "torch" else ("fp32",),
        keep="pareto",
    )
    assert study.best.card.classes == source.card.classes
    assert list((tmp_path / "out" / "pareto").iterdir())


def test_a_dry_run_says_what_would_be_tried_and_writes_nothing(images, tmp_path, capsys):
    study = tlopt.optimize(images, tmp_path / "out", latency_ms=5.0, dry_run=True, **FAST)
    assert study.best is None
    assert [(row["network"], row["px"]) for row in study.report.rows] == [("tiny_models:cnn", 32)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"latency_ms": "fast"}, SettingError, "latency_ms must be a number, got 'fast'"),
        ({"latency_ms": -1.0}, SettingError, "latency_ms must be at least 0"),
        ({"latency_ms": float("nan")}, SettingError, "latency_ms must be a number"),
        ({}, SettingError, "needs a limit"),
        ({"latency_ms": 5.0, "min_accuracy": 0.9, "max_drop": 0.1}, SettingError, "both say"),
        ({"latency_ms": 5.0, "minutes": 0.0}, SettingError, "minutes must be at least"),
        ({"latency_ms": 5.0, "role": "train"}, SettingError, "share a study"),
        ({"latency_ms": 5.0, "precisions": ("qat",)}, SettingError, "Add int8"),
        ({"latency_ms": 5.0, "precisions": ("qat", "qat")}, SettingError, "Add int8"),
        ({"latency_ms": 5.0, "precisions": ("fp32", "qat")}, SettingError, "Add int8"),
        ({"latency_ms": 5.0, "images": "elsewhere"}, SettingError, "images is for an artifact"),
        ({"latency_ms": 5.0, "models": ("nowhere:net",)}, PluginError, "nowhere"),
        ({"latency_ms": 5.0, "backend": ("nothing",)}, PluginError, "nothing"),
        ({"latency_ms": 5.0, "backend": ("onnxruntime", "gone")}, StageError, "gone cannot run here: It has gone."),
        ({"latency_ms": 5.0, "image_sizes": (10**6,)}, SettingError, "image_sizes must be between 16 and 4096"),
    ],
)
def test_what_cannot_be_asked_for_is_one_error_before_anything_is_made(
    images, tmp_path, monkeypatch, given, error, message
):
    load = backends.load
    gone = SimpleNamespace(problem=lambda _: "It has gone.")
    monkeypatch.setattr(backends, "load", lambda name, device="": gone if name == "gone" else load(name, device))
    with pytest.raises(error, match=message):
        tlopt.optimize(images, tmp_path / "out", **given)
    assert list(tmp_path.iterdir()) == []


def test_a_command_without_a_folder_or_images_says_how_to_begin(tmp_path, images, capsys):
    for arguments in ([images], ["-o", tmp_path / "out"], []):
        code, _, err = called(capsys, "optimize", *arguments, "--latency-ms", "5")
        assert code == 2
        assert "tlopt optimize IMAGES -o OUT --latency-ms 5" in err


def test_images_without_labels_are_refused(images, tmp_path):
    (tmp_path / "plain").mkdir()
    for file in (images / "red").iterdir():
        (tmp_path / "plain" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ImagesError, match="a classifier needs at least two"):
        tlopt.optimize(tmp_path / "plain", tmp_path / "out", latency_ms=5.0, models=MODELS)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_damaged_images_of_any_part_are_told_before_anything_is_timed(images, tmp_path, monkeypatch, part):
    monkeypatch.setattr(worker, "time_untrained", None)
    for name, some in tlopt.scan(images).split(val=0.2, test=0.2, seed=0).items():
        for number, file in enumerate(some.files):
            (place := tmp_path / "parts" / name / file).parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"no image" if name == part and number % 4 == 0 else (images / file).read_bytes())
    with pytest.raises(ImagesError, match=r"images cannot be read, and more than 10% is too many to go on"):
        tlopt.optimize(tmp_path / "parts", tmp_path / "out", latency_ms=1000.0, **FAST)
    assert not (tmp_path / "out").exists()


def test_a_class_without_a_training_image_that_can_be_read_is_told_before_anything_is_timed(images, tmp_path):
    some = shutil.copytree(images, tmp_path / "some")
    (some / "none").mkdir()
    (some / "none" / "a.png").write_bytes(b"no image")
    with pytest.raises(ImagesError, match="No training image of the class none"):
        tlopt.optimize(some, tmp_path / "out", latency_ms=1000.0, **FAST)


def test_no_network_that_can_be_had_is_one_error(images, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "DEFAULTS", ("pip:efficientnet_lite0",))
    monkeypatch.setattr(networks, "problem", lambda _: "It is gone.")
    with pytest.raises(PluginError, match="No pretrained network can be had here") as caught:
        tlopt.optimize(images, tmp_path / "out", latency_ms=5.0)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_search_is_writing_is_refused(images, tmp_path):
    from tlopt.publishing.claims import claim, lock_file

    out = tmp_path / "out"
    out.mkdir()
    note = folder.Note(tlopt="0", identity={}, quick="", study=folder.JOURNAL, minutes=1.0)
    (out / "optimize.json").write_text(note.text())
    with claim(lock_file(out), out), pytest.raises(OutputExistsError, match="at this moment"):
        tlopt.optimize(images, out, latency_ms=5.0, **FAST)


def test_force_never_replaces_an_artifact_or_weights_that_the_search_reads(images, tmp_path, monkeypatch):
    from tlopt.search import searching

    monkeypatch.setattr(searching, "search", None)
    out = tmp_path / "out"
    (out / "best").mkdir(parents=True)
    note = folder.Note(tlopt="0", identity={}, quick="", study=folder.JOURNAL, minutes=1.0)
    (out / "optimize.json").write_text(note.text())
    (out / "best" / "model.safetensors").write_text("made")
    for given in (
        {"models": (str(out / "best"),)},
        {"models": MODELS, "weights": (f"{MODELS[0]}={out / 'best' / 'model.safetensors'}",)},
    ):
        with pytest.raises(OutputExistsError, match=r"holds what this command reads: .*best"):
            tlopt.optimize(images, out, latency_ms=5.0, force=True, **{**FAST, **given})
    assert (out / "best" / "model.safetensors").read_text() == "made"


@pytest.mark.parametrize("text", ["{", "[]", '{"tlopt": 1}'])
def test_a_damaged_note_or_study_is_one_error(images, tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "optimize.json").write_text(text)
    with pytest.raises(StudyError, match=r"optimize\.json is damaged"):
        tlopt.optimize(images, tmp_path / "out", latency_ms=5.0, **FAST)
    (tmp_path / "study").write_text("not a journal\n")
    with pytest.raises(StudyError, match="study is damaged"):
        tlopt.optimize(images, tmp_path / "other", latency_ms=5.0, study=str(tmp_path / "study"), **FAST)


def _killing_once(flag):
    """Return a display of progress that kills the first process that trains, in its second epoch."""

    class Bar:
        def __init__(self, label, total):
            self.left = total - 1 if label == "Training" else 10**9

        def advance(self, steps=1, note=""):  # noqa: ARG002 - part of the protocol
            self.left -= steps
            if self.left <= 0:
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
                    os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def display(label, total):
        yield Bar(label, total)

    return display


@pytest.mark.slow
def test_three_workers_of_which_one_is_killed_find_what_one_finds(found, images, tmp_path, steady):
    study, out = str(tmp_path / "study.journal"), tmp_path / "out"

    def work():
        progress.display.set(_killing_once(tmp_path / "killed"))
        tlopt.optimize(images, out, latency_ms=1000.0, study=study, **FAST)

    children = [_started(work, {}, 0) for _ in range(3)]
    assert sorted(map(_ended, children)) == [0, 0, signal.SIGKILL]
    outcomes = [
        [row["outcome"] for row in json.loads((one / "report.json").read_text())["rows"]] for one in (out, found.path)
    ]
    assert outcomes[0] == outcomes[1]
    metrics = [Artifact.load(one / "best").card.onnx.network.metrics for one in (out, found.path)]
    for one in metrics:
        for epoch in one.get("epochs", []):
            del epoch["seconds"], epoch["images_per_s"]
    assert metrics[0] == metrics[1]
    assert Artifact.load(out / "best").digest == found.best.digest


def test_a_study_that_cannot_be_used_leaves_no_folder(images, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StudyError, match="cannot be used"):
        tlopt.optimize(images, tmp_path / "out", latency_ms=5.0, study=str(tmp_path / "folder"), **FAST)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_search_does_not_become_a_class_of_its_images(images, tmp_path):
    with pytest.raises(OutputError, match="lies among the images"):
        tlopt.optimize(images, images / "search", latency_ms=5.0, **FAST)
    assert not (images / "search").exists()


@pytest.mark.parametrize("study", ["{}/red/study.journal#mine", "sqlite:///{}/red/study.db"])
def test_a_study_does_not_become_a_file_among_the_images(images, tmp_path, study):
    for given in ({}, {"dry_run": True}):
        with pytest.raises(OutputError, match="lies among the images"):
            tlopt.optimize(images, tmp_path / "out", latency_ms=5.0, study=study.format(images), **given, **FAST)
    assert not (tmp_path / "out").exists()
    assert all(file.suffix == ".png" for file in (images / "red").iterdir())


def test_an_artifact_that_cannot_be_trained_on_the_images_is_refused_before_the_work(images, exported, tuned, tmp_path):
    for artifact, message in ((tuned, "was trained on other images"), (exported, "is of kind onnx; this needs torch")):
        with pytest.raises(ArtifactError, match=message):
            tlopt.optimize(images, tmp_path / "out", latency_ms=5.0, **{**FAST, "models": (str(artifact.path),)})
    assert list(tmp_path.iterdir()) == []
