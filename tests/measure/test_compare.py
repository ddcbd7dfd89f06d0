from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from tiny_onnx import RIGHT, write_onnx

from tlopt import registry
from tlopt.cards.details import OnnxDetails, Quantized
from tlopt.errors import ArtifactError, CheckError, MissingLibraryError
from tlopt.measure.compare import compare


def test_a_comparison_with_itself_finds_nothing(tiny):
    result = compare(tiny, tiny, max_drop=0, min_agreement=1)
    assert (result.drop, result.agreement, result.max_error, result.p_value) == (0, 1, 0, 1)
    assert result.flips == ()
    result.check()


def test_flips_and_recall_tell_what_went_wrong(tiny, biased):
    result = compare(tiny, biased)
    assert result.broken - result.mended == round(result.drop * result.images)
    assert result.agreement == pytest.approx(1 - len(result.flips) / result.images)
    assert all(flip.reference != flip.candidate for flip in result.flips)
    assert [flip.shift for flip in result.flips] == sorted(flip.shift for flip in result.flips)
    assert result.recall_change["green"] < 0
    assert min(result.recall_change.values()) < 0


def test_breached_gates_are_shown_first_and_then_fail(tiny, biased):
    result = compare(tiny, biased, max_drop=0.01, min_agreement=0.98)
    assert len(result.breaches) == 2
    assert "more than the 1.00% allowed" in result.to_report().table()
    with pytest.raises(CheckError, match=r"less than the 98\.00% required") as caught:
        result.check()
    assert caught.value.exit_code == 3


def test_backends_can_be_compared(tiny):
    result = compare(tiny, tiny, reference_backend="onnxruntime", backend="openvino", min_agreement=1)
    assert result.candidate.runner == "openvino:cpu"
    result.check()


def test_the_page_shows_the_photos_that_flipped(tiny, biased, tmp_path):
    result = compare(tiny, biased, html=tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert html.count("data:image/jpeg;base64,") == len(result.flips)
    assert result.flips[0].file in html
    assert "broken" in html


def test_the_layer_where_the_error_starts_is_told_on_request(tiny, biased, swatches):
    result = compare(tiny, biased, layers=True)
    assert [row["op"] for row in result.layers.rows] == ["Conv", "GlobalAveragePool"]
    report = result.to_report()
    assert any("It grows most at mix (Conv" in note for note in report.notes)
    assert report.details["layers"][0]["layer"] == "mix"
    assert compare(tiny, biased).layers is None


def test_layers_are_refused_before_any_work_where_an_artifact_has_none(tuned, photos, tmp_path):
    with pytest.raises(ArtifactError, match="torch"):
        compare(tuned, tuned, layers=True, images=tmp_path / "none")


def test_a_class_that_lost_too_much_breaches_its_gate(tiny, biased):
    lost = compare(tiny, biased).recall_change
    worst = next(iter(lost))
    result = compare(tiny, biased, max_class_drop=-lost[worst] - 0.01)
    assert len(result.breaches) == 1
    with pytest.raises(CheckError, match=f"The recall of {worst} fell by"):
        result.check()
    assert compare(tiny, tiny, max_class_drop=0).breaches == ()


@pytest.fixture(scope="module")
def for_openvino(card, tmp_path_factory):
    details = OnnxDetails(opset=17, quantized=Quantized(runtime="openvino", calibration_images=1, reduce_range=True))
    made = replace(card, details=details)
    return write_onnx(tmp_path_factory.mktemp("artifacts") / "for-openvino", made, RIGHT)


def test_what_was_quantized_for_openvino_runs_there(tiny, for_openvino, tmp_path, photos):
    found = compare(tiny, for_openvino)
    assert (found.reference.runner, found.candidate.runner) == ("onnxruntime:cpu", "openvino:cpu")
    assert compare(for_openvino, tiny).reference.runner == "openvino:cpu"
    assert compare(tiny, for_openvino, backend="onnxruntime").candidate.runner == "onnxruntime:cpu"
    (tmp_path / "flat").mkdir()
    for file in list(photos.glob("*/*"))[:2]:
        (tmp_path / "flat" / file.name).write_bytes(file.read_bytes())
    unlabelled = compare(tiny, for_openvino, images=tmp_path / "flat")
    assert unlabelled.runners == ("onnxruntime:cpu", "openvino:cpu")
    assert "The reference ran in onnxruntime:cpu, the candidate in openvino:cpu." in unlabelled.to_report().notes


def test_without_openvino_it_runs_in_onnx_runtime_and_says_so(tiny, for_openvino, monkeypatch, caplog):
    load = registry.load

    def missing(folder, name):
        if name == "openvino":
            raise MissingLibraryError("openvino is not installed.")
        return load(folder, name)

    monkeypatch.setattr(registry, "load", missing)
    with caplog.at_level(logging.INFO):
        assert compare(tiny, for_openvino).candidate.runner == "onnxruntime:cpu"
    assert "is not installed: it runs in ONNX Runtime" in caplog.text
