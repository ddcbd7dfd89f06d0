from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_onnx import RIGHT, write_onnx

from tlopt.artifact import Artifact
from tlopt.cards.details import Pruned, Rival, TorchDetails
from tlopt.errors import ImagesError, OutputExistsError, SettingError, StageError
from tlopt.measure.report import _findings, _rivals
from tlopt.measure.report import report as make_report
from tlopt.reports import Report


@pytest.mark.slow
def test_everything_stands_in_one_table_and_two_files(tiny, biased, tmp_path):
    report = make_report([tiny, biased], tmp_path / "out", batch=(1, 4), seconds=0.02)
    assert [(row["artifact"], row["backend"]) for row in report.rows] == [
        ("tiny", "onnxruntime:cpu"), ("tiny", "openvino:cpu"),
        ("biased", "onnxruntime:cpu"), ("biased", "openvino:cpu"),
    ]  # fmt: skip
    assert report.rows[0]["speed_up"] == 1
    assert report.rows[0]["agreement"] is None
    assert report.rows[1]["agreement"] == 1
    assert report.rows[2]["agreement"] < 1
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"report.html", "report.json"}
    assert Report.from_json((tmp_path / "out" / "report.json").read_text()).rows == report.rows


@pytest.mark.slow
def test_a_report_killed_between_its_two_files_leaves_nothing_and_goes_on(tiny, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("tlopt.measure.report.write_whole", interrupted_at_the_page)
        with pytest.raises(KeyboardInterrupt):
            make_report([tiny], out, batch=(1,), seconds=0.02)
    assert not out.exists()
    make_report([tiny], out, batch=(1,), seconds=0.02)
    with pytest.raises(OutputExistsError, match="exists already"):
        make_report([tiny], out, batch=(1,), seconds=0.02)
    with pytest.raises(OutputExistsError, match="what this command reads"):
        make_report([tiny], tiny.path, force=True)


def interrupted_at_the_page(file, content, **_):
    if file.name == "report.html":
        raise KeyboardInterrupt
    file.write_text(content)


def test_the_photos_of_a_manifest_are_the_ones_timed(tiny, tmp_path):
    root = Path(tiny.card.images.path)
    rows = [f"{file},{file.parent.name}" for file in sorted(root.rglob("*.png"))]
    table = tmp_path / "photos" / "table.csv"
    table.parent.mkdir()
    table.write_text("path,label\n" + "\n".join(rows))
    report = make_report([tiny], tmp_path / "out", batch=(1,), seconds=0.02, images=table)
    assert str(table) in report.conditions["images"]


def test_the_page_needs_nothing_from_outside(tiny, tmp_path):
    make_report([tiny], tmp_path, batch=(1,), seconds=0.02)
    html = (tmp_path / "report.html").read_text()
    assert "<svg" in html
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|<script|@import|<link""", html)


def test_what_cannot_run_gets_a_row_that_says_so(tiny, tmp_path):
    report = make_report([tiny], tmp_path, backend=("onnxruntime", "openvino:npu"), batch=(1,), seconds=0.02)
    assert "finds no NPU here" in report.rows[1]["skipped"]
    assert "Did not run here" in (tmp_path / "report.html").read_text()


def test_where_nothing_runs_an_older_report_stays(tiny, tmp_path):
    make_report([tiny], tmp_path / "report", batch=(1,), seconds=0.02)
    before = (tmp_path / "report" / "report.json").read_bytes()
    with pytest.raises(StageError, match="finds no NPU here"):
        make_report([tiny], tmp_path / "report", backend=("openvino:npu",), batch=(1,), seconds=0.02, force=True)
    assert (tmp_path / "report" / "report.json").read_bytes() == before


def test_int8_that_is_slower_than_fp32_is_called_out():
    def row(name: str, precision: str, latency: float, accuracy: float) -> dict[str, object]:
        return {"artifact": name, "precision": precision, "backend": "onnxruntime:cpu", "accuracy": accuracy,
                "low": accuracy - 0.02, "high": accuracy + 0.02, "latency_ms_batch_1": latency,
                "speed_up": 4.0 / latency}  # fmt: skip

    notes = _findings([row("full", "fp32", 4.0, 0.9), row("small", "int8", 5.0, 0.8)], (1,))
    slower = [note for note in notes if "slower" in note]
    assert len(slower) == 1
    assert slower[0].startswith("Warning: small")
    assert "5.00 " in slower[0]
    assert "onnxruntime:cpu" in slower[0]
    assert any("below the interval of full" in n for n in notes)
    assert not any("Warning" in n for n in _findings([row("a", "fp32", 4.0, 0.9), row("b", "int8", 2.0, 0.9)], (1,)))


@pytest.mark.parametrize(("accuracy", "called_out"), [(0.9, True), (0.7, False)])
def test_a_rival_that_looks_better_than_a_pruned_network_is_called_out(tmp_path, card, accuracy, called_out):
    rival = Rival(image_size=48, macs=5, accuracy=accuracy, pruned_accuracy=0.8, images=40, command="tlopt finetune x")
    pruned = Pruned(criterion="logits", sparsity="none", rival=rival)
    one = replace(card, kind="torch", details=TorchDetails(pruned=pruned))
    artifact = Artifact(path=tmp_path, card=one)
    notes = _rivals({"pruned": artifact, "whole": Artifact(path=tmp_path, card=card)})
    assert notes == ([f"Warning: pruned: {rival.told()}"] if called_out else [])


def test_artifacts_of_different_classes_are_refused(tiny, tmp_path, card):
    other = write_onnx(tmp_path / "other", replace(card, classes=("a", "b", "c")), RIGHT)
    with pytest.raises(ImagesError, match="different classes"):
        make_report([tiny, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_artifacts_keep_their_names_where_only_some_are_timed(card, tmp_path):
    plain, other = (write_onnx(tmp_path / folder / "model", card, RIGHT) for folder in ("a", "b"))
    half = write_onnx(tmp_path / "c" / "model", replace(card, precision="fp16"), RIGHT)  # made for TensorRT
    for artifacts in ([plain, half], [plain, half, other]):
        report = make_report(artifacts, tmp_path / "out", batch=(1,), backend=(), seconds=0.01, force=True)
        named = {row["artifact"] for row in report.rows}
        assert named == {f"{one.path.parent.name}/model" for one in artifacts}
        assert all(row["latency_ms_batch_1"] > 0 for row in report.rows if row["artifact"] != "c/model")


def test_an_artifact_that_is_named_twice_is_refused_before_any_work(tiny, tmp_path):
    with pytest.raises(SettingError, match="is named twice") as caught:
        make_report([tiny, tiny.path], tmp_path / "out")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()
