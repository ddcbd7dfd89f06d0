"""The chain of a network that is no classifier: every command works on it, or says why not."""

from __future__ import annotations

import any_nets
import numpy as np
import onnx
import pytest
from any_nets import HIGH, WIDE, brought

import tlopt
from tlopt import verdict
from tlopt.artifact import Artifact
from tlopt.backends import open_call
from tlopt.engine import flavour
from tlopt.errors import ArtifactError, CheckError, SettingError
from tlopt.measure.drift import drift
from tlopt.show import show

FAST = {"samples": 8, "rounding": "nearest"}


@pytest.fixture(scope="module", autouse=True)
def _short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


@pytest.fixture(scope="module")
def images(folder):
    return any_nets.images(folder / "images")


@pytest.fixture(scope="module")
def detector(folder) -> Artifact:
    return brought(any_nets.detector(), folder, "detector")


@pytest.fixture(scope="module")
def quantized(detector, images, folder) -> Artifact:
    return tlopt.quantize(detector, folder / "int8", images=images, **FAST)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
@pytest.mark.parametrize("net", [any_nets.detector, any_nets.segmenter, any_nets.embedder, any_nets.choosing])
def test_int8_is_near_the_source_for_each_runtime(net, runtime, images, tmp_path):
    source = brought(net(), tmp_path)
    made = tlopt.quantize(source, tmp_path / "int8", images=images, for_=runtime, **FAST)
    card = made.card
    assert (card.task, card.precision, card.outputs) == ("any", "int8", source.card.outputs)
    measured = card.quantized.measured
    assert [error.name for error in measured.outputs] == [output.name for output in card.outputs]
    assert measured.agreement is None
    assert measured.accuracy is None
    assert card.quantized.eight_bit_macs > 0.5 * card.quantized.macs
    assert measured.snr_db > (8 if net in (any_nets.detector, any_nets.choosing) else 15)


def test_what_it_was_judged_by_is_said(detector, images, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    tlopt.quantize(detector, tmp_path / "int8", images=images, **FAST)
    assert "Judged by the error of each output on 2 images: boxes" in caplog.text


def test_half_precision_keeps_every_output(detector, images, tmp_path):
    made = tlopt.quantize(detector, tmp_path / "fp16", precision="fp16", images=images, samples=4)
    assert [error.name for error in made.card.quantized.measured.outputs] == ["boxes", "scores", "classes"]
    assert made.card.quantized.measured.outputs[0].snr_db > 40


def test_blocks_stay_float_until_every_output_is_near_enough(images, tmp_path, monkeypatch):
    monkeypatch.setattr(verdict, "times", lambda *_, **__: {1: (2.0, 1.0)})
    # Boxes of 0 to 24 and scores of 0 to 1 in one tensor: integers with one scale for both tell no score.
    net = any_nets.AnyNet()
    boxes = net.add("Mul", net.add("Sigmoid", net.rows(4)), net.constant(2400.0))
    both = net.add("Concat", boxes, net.add("Sigmoid", net.rows(2)), axis=2)
    scores = net.add(
        "Slice", both, net.constant([4], np.int64), net.constant([6], np.int64), net.constant([2], np.int64)
    )
    net.output(both, "boxes").output(net.add("Mul", scores, net.constant(1.0)), "scores")
    source = brought(net, tmp_path)
    plain = tlopt.quantize(source, tmp_path / "plain", images=images, **FAST)
    assert plain.card.quantized.measured.snr_db < 15
    found = tlopt.quantize(source, tmp_path / "searched", images=images, min_db=20, **FAST).card.quantized
    assert "outputs" in found.sensitivity.float_blocks
    assert found.sensitivity.drop_of == "noise"
    assert found.sensitivity.max_drop == pytest.approx(0.01)
    notes = "\n".join(show(tmp_path / "searched").notes)
    assert "Limit of 20 dB on every output" in notes
    kept = tlopt.quantize(source, tmp_path / "kept", images=images, float_blocks=("outputs",), **FAST)
    assert kept.card.quantized.float_blocks == ("outputs",)


def test_limits_of_the_other_kind_of_network_are_refused(detector, exported, images, tmp_path):
    with pytest.raises(SettingError, match="max_drop is for classifiers"):
        tlopt.quantize(detector, tmp_path / "q", images=images, max_drop=0.01)
    with pytest.raises(SettingError, match="min_db is for networks that are no classifiers"):
        tlopt.quantize(exported, tmp_path / "q", min_db=20)
    with pytest.raises(SettingError, match="min_db is for int8"):
        tlopt.quantize(detector, tmp_path / "q", images=images, precision="fp16", min_db=20)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", ["rgb", "bgr", "grey"])
def test_export_puts_the_preprocessing_into_the_graph(layout, channels, tmp_path):
    net = any_nets.embedder(channels=1 if channels == "grey" else 3, image="pre" if layout == "nhwc" else "x")
    shape = ("n", net.channels, HIGH, WIDE)
    if layout == "nhwc":
        net.add("Transpose", "x", out="pre", perm=[0, 3, 1, 2])
        net.nodes.insert(0, net.nodes.pop())
        net.image, shape = "x", ("n", HIGH, WIDE, net.channels)
    given = {} if channels == "grey" else {"channels": channels}
    source = brought(net, tmp_path, preset="torchvision", saved={"shape": shape}, layout=layout, **given)
    made = tlopt.export(source, tmp_path / "uint8", input_="uint8")
    assert made.card.preprocess.folded
    assert made.card.preprocess.input_shape == (HIGH, WIDE, net.channels)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *made.card.preprocess.input_shape), dtype=np.uint8)
    with open_call(source) as before, open_call(made) as after:
        pairs = zip(before(source.card.preprocess.normalize(pixels)), after(pixels), strict=True)
        for own, new in pairs:
            np.testing.assert_allclose(new[0], own[0], atol=1e-5)
    with pytest.raises(ArtifactError, match="takes uint8 pixels already"):
        tlopt.export(made, tmp_path / "again", input_="uint8")
    with pytest.raises(ArtifactError, match="ONNX artifact already"):
        tlopt.export(source, tmp_path / "again")


@pytest.mark.skipif(bool(flavour.problem("rtx")), reason=flavour.problem("rtx"))
@pytest.mark.parametrize("input_", ["float32", "uint8"])
def test_an_engine_keeps_every_output(detector, input_, tmp_path):
    source = detector if input_ == "float32" else tlopt.export(detector, tmp_path / "uint8", input_="uint8")
    made = tlopt.build(source, tmp_path / "engine", target=("sm89",))
    assert (made.card.task, made.card.outputs) == ("any", detector.card.outputs)
    assert made.card.engine.profile.dtype == input_


def test_export_goes_on_to_int8(detector, images, tmp_path):
    made = tlopt.export(detector, tmp_path / "out", input_="uint8", precision="fp16", images=images)
    assert made.card.precision == "fp16"
    assert [step.stage for step in made.card.lineage] == ["import", "export", "quantize"]


def test_compare_shows_the_error_of_each_output(detector, quantized, images, tmp_path):
    found = tlopt.compare(detector, quantized, images=images, html=tmp_path / "page.html", layers=True, min_db=1)
    assert found.images == 12
    report = found.to_report()
    assert [row["output"] for row in report.rows] == ["boxes", "scores", "classes"]
    assert report.rows[0]["snr_db"] > 8
    assert report.rows[2]["equal"] > 0.5
    assert "no labels" in report.notes[0]
    assert found.far[0].snr_db <= found.far[-1].snr_db
    assert found.far[0].file in (tmp_path / "page.html").read_text(encoding="utf-8")
    found.check()
    far = tlopt.compare(detector, quantized, images=images, min_db=90)
    with pytest.raises(CheckError, match=r"The output boxes has .* dB, less than the 90 dB required"):
        far.check()
    with pytest.raises(SettingError, match="max_drop needs labels"):
        tlopt.compare(detector, quantized, images=images, max_drop=0.1)


def test_only_networks_of_the_same_outputs_are_compared(detector, exported, images, folder, tmp_path):
    other = brought(any_nets.segmenter(), tmp_path)
    for second, names in ((other, "boxes, scores, classes and mask"), (exported, "boxes, scores, classes and classes")):
        with pytest.raises(ArtifactError, match=f"other outputs: {names}"):
            tlopt.compare(detector, second, images=images)


def test_what_needs_classes_is_refused_with_what_to_use_instead(detector, images, tmp_path):
    calls = {
        "evaluate": lambda: tlopt.evaluate(detector, images=images),
        "predict": lambda: list(tlopt.predict(detector, images)),
        "choose": lambda: tlopt.choose(detector),
        "report": lambda: tlopt.report([detector], tmp_path / "r", images=images),
    }
    for verb, call in calls.items():
        with pytest.raises(
            ArtifactError, match=f"its outputs are boxes, scores, classes. {verb} needs classes"
        ) as error:
            call()
        assert "tlopt compare" in error.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("net", [any_nets.detector, any_nets.choosing])
def test_speed_is_measured(net, images, tmp_path):
    source = brought(net(), tmp_path)
    rows = tlopt.bench([source], batch=(1, 2), seconds=0.02, images=images, memory=False, end_to_end=True).rows
    assert {row["backend"] for row in rows} == {"onnxruntime:cpu", "openvino:cpu"}
    assert all(row["p50_ms"] > 0 and row["end_to_end_ms"] > 0 for row in rows)
    for backend in ("onnxruntime", "openvino"):
        layers = tlopt.profile(source, backend=backend, runs=2).details["layers"]
        assert any(row["op"] in ("Conv", "Convolution") for row in layers)


def test_several_callers_run_it(detector):
    rows = tlopt.bench([detector], batch=(1,), seconds=0.02, memory=False, streams=(2,), backend=("onnxruntime",)).rows
    assert rows[0]["streams"] == 2


def test_a_profile_of_another_batch_than_the_fixed_one_is_refused(tmp_path):
    with pytest.raises(SettingError, match="takes a batch of 1, got 4") as error:
        tlopt.profile(brought(any_nets.choosing(), tmp_path), batch=4)
    assert "--batch 1" in error.value.hint


def test_roofline_counts_the_work_of_each_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("tlopt.measure.roofline.peak_gmacs_per_s", lambda *_: 100.0)
    monkeypatch.setattr("tlopt.measure.roofline.bandwidth_gb_per_s", lambda *_: 10.0)
    source = brought(any_nets.choosing(), tmp_path)
    rows = tlopt.roofline([source], batch=(1, 3), seconds=0.02, backend=("onnxruntime",)).rows
    assert rows[1]["mmacs"] == pytest.approx(3 * rows[0]["mmacs"])


def test_drift_goes_layer_by_layer(detector, quantized, images, tmp_path):
    found = drift(detector, quantized, images=images, batch=3)
    assert {row["op"] for row in found.rows} >= {"Conv", "Sigmoid"}
    source = brought(any_nets.choosing(), tmp_path)
    made = tlopt.quantize(source, tmp_path / "int8", images=images, **FAST)
    assert drift(source, made, images=images, batch=3).rows


def test_show_names_the_outputs_and_their_error(quantized):
    notes = "\n".join(show(quantized).notes)
    assert "Outputs: boxes (n, 24, 4), scores (n, 24, 2), classes (n, 24) int64. It is no classifier" in notes
    assert "million multiply-adds" in notes
    assert "Beside its source, on 2 images: boxes" in notes


def test_a_classifier_is_compared_without_labels(exported, photos, tmp_path):
    flat = any_nets.images(tmp_path / "flat", 5)
    other = tlopt.quantize(exported, tmp_path / "int8", **FAST)
    found = tlopt.compare(exported, other, images=flat)
    assert found.images == 5
    assert 0 <= found.agreement <= 1
    assert found.to_report().rows[0]["output"] == "logits"
    labelled = tlopt.compare(exported, other, images=photos, split="all", min_db=200)
    assert any("less than the 200 dB required" in breach for breach in labelled.breaches)


def test_a_folder_of_other_folders_is_a_folder_of_images(detector, images, tmp_path):
    (tmp_path / "set/train").mkdir(parents=True)
    (tmp_path / "set/labels").mkdir()
    for place, file in enumerate(sorted(images.iterdir())):
        (tmp_path / f"set/{'train' if place % 2 else ''}/{file.name}").write_bytes(file.read_bytes())
    assert tlopt.compare(detector, detector, images=tmp_path / "set").images == 12


def test_images_of_a_manifest_need_no_classes(detector, images, tmp_path):
    lines = [f"{file},x" for file in sorted(images.iterdir())]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    found = tlopt.compare(detector, detector, images=tmp_path / "list.csv")
    assert found.images == 12
    assert found.outputs[0].snr_db == 120


def test_the_tail_of_the_network_is_a_block_of_its_own(detector):
    from tlopt.graphs.cleaning import clean
    from tlopt.graphs.view import View
    from tlopt.quantization.search.blocks import blocks_of

    view = View(clean(onnx.load(detector.payload(".onnx"))))
    found = blocks_of(view, tail=True)
    kinds = {node.name: node.op_type for node in view.nodes}
    assert found[-1].name == "outputs"
    assert {kinds[name] for name in found[-1].nodes} <= {"Transpose", "Reshape", "Sigmoid", "Mul", "ArgMax", "Identity"}
    assert sorted(name for block in found for name in block.nodes) == sorted(kinds)
    assert all(block.name != "outputs" for block in blocks_of(view))


def test_images_in_which_nothing_is_found_are_compared_too(images, folder, tmp_path):
    net = any_nets.choosing()
    source = brought(net, folder, "choosing")
    threshold = next(tensor for tensor in net.constants if onnx.numpy_helper.to_array(tensor).tolist() == [0.5])
    threshold.CopyFrom(onnx.numpy_helper.from_array(np.float32([2.0]), threshold.name))  # above any score
    nothing = brought(net, tmp_path, "nothing")
    assert tlopt.compare(nothing, nothing, images=images).images == len(list(images.iterdir()))
    assert tlopt.compare(source, nothing, images=images).agreement is None
