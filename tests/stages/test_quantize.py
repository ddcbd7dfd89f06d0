"""Quantizing a small fine-tuned network: what comes out runs, agrees and is refused where it should be."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_graphs import Builder

import tlopt
import tlopt.stages.quantize
from tlopt import backends, verdict
from tlopt.artifact import Artifact, seal
from tlopt.backends import open_runner
from tlopt.errors import ArtifactError, CheckError, ImagesError, SettingError
from tlopt.graphs.view import View
from tlopt.images import batches, reopen
from tlopt.publishing import draft
from tlopt.quantization.calibration import images
from tlopt.quantization.search import blocks
from tlopt.quantization.search.blocks import blocks_of
from tlopt.show import show


def logits(artifact: Artifact, images: np.ndarray) -> np.ndarray:
    with open_runner(artifact, "onnxruntime") as runner:
        return runner(images)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Time only a few runs: the tests look at what is made of them."""
    monkeypatch.setattr(verdict, "SECONDS", 0.01)


@pytest.fixture(scope="module")
def held_out(exported):
    part = reopen(exported.card.images)["test"]
    return next(iter(batches(part, exported.card.preprocess, batch=64))).inputs


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_quantize_keeps_the_logits(exported, held_out, tmp_path, precision, runtime):
    made = tlopt.quantize(exported, tmp_path / "q", precision=precision, for_=runtime, samples=16)
    assert made.card.precision == precision
    assert made.card.quantized.runtime == runtime
    assert not any("float_blocks" in note for note in show(made).notes)
    expected, found = logits(exported, held_out), logits(made, held_out)
    # The head has a weight of 900 on a feature that is nearly always 0: rounded alone, it would cost all others their
    # precision. 8 bits then leave an error of about 1 % of the spread, half precision one of 0.1 %.
    tolerance = {"int8": 0.04, "fp16": 0.005}[precision] * np.ptp(expected)
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize(("choice", "largest"), [("on", 64), ("off", 127)])
@pytest.mark.slow
def test_weights_keep_to_half_the_range_where_asked(exported, tmp_path, choice, largest):
    made = tlopt.quantize(exported, tmp_path / "q", samples=8, rounding="nearest", reduce_range=choice)
    weights = [
        onnx.numpy_helper.to_array(i)
        for i in onnx.load(made.payload(".onnx")).graph.initializer
        if i.name.endswith("_weight_quantized")
    ]
    # The tiny network has no depthwise layers.
    assert max(int(np.abs(values.astype(int)).max()) for values in weights) == largest
    assert made.card.quantized.reduce_range is (choice == "on")


@pytest.fixture
def with_norms(exported, tmp_path):
    """The exported network with a batch norm after each convolution, and a scaled image before the first."""
    model = onnx.load(exported.payload(".onnx"))
    random, nodes, constants = np.random.default_rng(0), [], []

    def constant(name, values):
        constants.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
        return name

    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "Conv":
            continue
        result, width = node.output[0], exported_width(model, node)
        node.output[0] = f"{result}_plain"
        parts = [constant(f"norm_{result}_{i}", random.uniform(0.5, 2, width)) for i in range(4)]
        nodes.append(onnx.helper.make_node("BatchNormalization", [node.output[0], *parts], [result]))
    first = nodes[0]
    nodes.insert(0, onnx.helper.make_node("Mul", ["images", constant("two", np.full((1, 3, 1, 1), 2))], ["scaled"]))
    first.input[0] = "scaled"
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(copied)
    model.graph.initializer.extend(constants)
    with draft(tmp_path / "norms") as folder:
        onnx.save(model, folder / "model.onnx")
        seal(folder, exported.card)
    return Artifact.load(tmp_path / "norms")


def exported_width(model, node):
    return next(i.dims[0] for i in model.graph.initializer if i.name == node.input[1])


@pytest.mark.parametrize("precision", ["int8", "fp16", "bf16"])
def test_batch_norms_are_part_of_the_convolutions_before_they_are_rounded(with_norms, held_out, tmp_path, precision):
    made = tlopt.quantize(with_norms, tmp_path / "q", precision=precision, samples=16)
    kinds = {node.op_type for node in onnx.load(made.payload(".onnx")).graph.node}
    assert not {"BatchNormalization", "Mul"} & kinds
    if precision == "int8":
        expected = logits(with_norms, held_out)
        np.testing.assert_allclose(logits(made, held_out), expected, atol=0.04 * np.ptp(expected))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_gelu_is_one_node_for_onnx_runtime_alone(photos, tmp_path, runtime):
    """OpenVINO and TensorRT find it themselves."""
    b = Builder()
    x = b.conv("images", 3, 8)
    half = b.node("Erf", b.node("Div", x, b.constant(np.float32(np.sqrt(2)))))
    x = b.node("Mul", x, b.node("Mul", b.constant(np.float32(0.5)), b.node("Add", half, b.constant(np.float32(1)))))
    onnx.save(b.model(b.head(b.conv(x, 8, 16), 16), size=32), tmp_path / "gelu.onnx")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    source = tlopt.import_model(
        tmp_path / "gelu.onnx", tmp_path / "fp32", image_size=32, classes=tmp_path / "classes.txt"
    )
    made = tlopt.quantize(source, tmp_path / "int8", for_=runtime, images=photos, samples=8)
    kinds = [node.op_type for node in onnx.load(made.payload(".onnx")).graph.node]
    assert kinds.count("Gelu") == (runtime == "onnxruntime")
    assert kinds.count("Erf") == (runtime != "onnxruntime")


def test_half_the_range_is_for_int8(exported, tmp_path):
    with pytest.raises(SettingError, match="reduce_range is for int8, got precision fp16"):
        tlopt.quantize(exported, tmp_path / "q", precision="fp16", reduce_range="on")


def test_blocks_are_not_chosen_by_answers_that_saturate(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "saturates", lambda _: True)
    with pytest.raises(SettingError, match="but the integer kernels of onnxruntime saturate"):
        tlopt.quantize(exported, tmp_path / "q", reduce_range="off", max_drop=0.01)
    made = tlopt.quantize(exported, tmp_path / "q", samples=8, rounding="nearest", reduce_range="off")
    assert made.card.quantized.measured.saturated is True


def test_a_graph_for_tensorrt_computes_here_as_an_engine_does(exported, held_out, tmp_path):
    """In float between its Q/DQ pairs, whatever this processor's own integer kernels do."""
    made = tlopt.quantize(exported, tmp_path / "q", for_="tensorrt", samples=16)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(made.payload(".onnx"), options, providers=["CPUExecutionProvider"])
    expected = plain.run(None, {"images": held_out})[0]
    # A tie that falls to the other side after sums in another order.
    np.testing.assert_allclose(logits(made, held_out), expected, atol=0.01 * np.ptp(expected))


def test_equalization_is_an_option(exported, held_out, tmp_path):
    made = tlopt.quantize(exported, tmp_path / "q", samples=8, equalization=True)
    expected = logits(exported, held_out)
    np.testing.assert_allclose(logits(made, held_out), expected, atol=0.04 * np.ptp(expected))


def test_quantize_to_bf16_passes_the_checker(exported, tmp_path):
    made = tlopt.quantize(exported, tmp_path / "q", precision="bf16", samples=8)
    model = onnx.load(made.payload(".onnx"))
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert {i.data_type for i in model.graph.initializer if len(i.dims) == 4} == {onnx.TensorProto.BFLOAT16}


def test_quantize_refuses_an_artifact_that_is_quantized_already(exported, tmp_path):
    made = tlopt.quantize(exported, tmp_path / "a", precision="fp16", samples=8)
    with pytest.raises(ArtifactError, match="is in fp16 already"):
        tlopt.quantize(made, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_file_that_another_tool_quantized_is_known_and_refused(exported, photos, tmp_path, form):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        rows = iter([{"images": np.zeros((1, 3, 32, 32), np.float32)}, {"images": np.ones((1, 3, 32, 32), np.float32)}])

        def get_next(self):
            return next(self.rows, None)

    quantize_static(exported.payload(".onnx"), tmp_path / "q.onnx", Reader(), quant_format=QuantFormat[form])
    (tmp_path / "classes.txt").write_text("\n".join(exported.card.classes))
    imported = tlopt.import_model(tmp_path / "q.onnx", tmp_path / "art", classes=tmp_path / "classes.txt")
    assert imported.card.precision == "int8"
    for precision in ("int8", "fp16"):
        with pytest.raises(ArtifactError, match="is in int8 already") as refused:
            tlopt.quantize(imported, tmp_path / "q", images=photos, precision=precision)
        assert refused.value.hint == "Import the ONNX file that it was converted from, in fp32."
    with draft(tmp_path / "older") as folder:
        (folder / "model.onnx").write_bytes(imported.payload(".onnx").read_bytes())
        seal(folder, replace(imported.card, precision="fp32"))
    with pytest.raises(ArtifactError, match="is in int8 already"):
        tlopt.quantize(tmp_path / "older", tmp_path / "q", images=photos)
    with pytest.raises(ArtifactError, match="TensorRT does not take it"):
        tlopt.build(imported, tmp_path / "engine", flavour="rtx", target=("sm89",))


def test_a_graph_quantized_for_one_runtime_is_not_built_for_another(exported, tmp_path):
    made = tlopt.quantize(exported, tmp_path / "q", samples=8, rounding="nearest")
    with pytest.raises(ArtifactError, match=r"was quantized for onnxruntime\. TensorRT does not take it") as error:
        tlopt.build(made, tmp_path / "engine", flavour="rtx", target=("sm89",))
    assert "--for tensorrt" in error.value.hint


def test_the_card_says_the_opset_of_the_file_that_is_there(exported, tmp_path):
    for precision, opset in (("fp8", 19), ("bf16", 22)):
        made = tlopt.quantize(exported, tmp_path / precision, precision=precision, for_="tensorrt", samples=8)
        assert made.card.onnx.opset == opset == onnx.load(made.payload(".onnx")).opset_import[0].version


def test_quantize_asks_for_images_where_there_are_none(exported, photos, tmp_path):
    with draft(tmp_path / "imported") as folder:
        (folder / "model.onnx").write_bytes(exported.payload(".onnx").read_bytes())
        seal(folder, replace(exported.card, images=None))
    with pytest.raises(ImagesError, match="knows no training images"):
        tlopt.quantize(tmp_path / "imported", tmp_path / "out")
    made = tlopt.quantize(tmp_path / "imported", tmp_path / "out", images=photos, samples=8)
    assert made.card.quantized.calibration_images == 8


def test_one_image_of_each_class_is_enough_to_calibrate_on(exported, photos, tmp_path):
    few = tmp_path / "few"
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        first = min(folder.iterdir())
        (few / folder.name).mkdir(parents=True)
        (few / folder.name / first.name).write_bytes(first.read_bytes())
    made = tlopt.quantize(exported, tmp_path / "q", images=few)
    assert made.card.quantized.calibration_images == len(exported.card.classes)


def test_equalization_is_for_eight_bits(exported, tmp_path):
    with pytest.raises(SettingError, match="equalization is for int8 and fp8, got precision fp16"):
        tlopt.quantize(exported, tmp_path / "q", precision="fp16", equalization=True)


def test_quantize_names_the_known_quantizers(exported, tmp_path):
    with pytest.raises(SettingError, match="minmax"):
        tlopt.quantize(exported, tmp_path / "out", quantizer="minmix")


@pytest.mark.slow
def test_the_card_says_what_was_measured(exported, tmp_path):
    made = tlopt.quantize(exported, tmp_path / "q", samples=16)
    measured = made.card.quantized.measured
    assert measured.agreement == 1
    assert measured.accuracy is not None
    assert set(measured.latency_ms) == {"1", "32"}


def test_require_faster_refuses_what_cannot_be_timed_and_leaves_nothing(exported, tmp_path):
    with pytest.raises(CheckError, match="could not be measured"):
        tlopt.quantize(exported, tmp_path / "q", for_="tensorrt", samples=8, require_faster=True)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_require_faster_refuses_what_is_slower(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(verdict, "_MARGIN", 0.0)  # everything counts as slower
    with pytest.raises(CheckError, match=r"int8 is slower than .* at batch 1: .* ms against"):
        tlopt.quantize(exported, tmp_path / "q", samples=8, require_faster=True)
    assert not any(tmp_path.iterdir())


@pytest.fixture
def uneven(exported, tmp_path):
    """The exported network with one channel before the classifier a thousand times as large as the others."""
    model = onnx.load(exported.payload(".onnx"))
    weighted = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    for constant in model.graph.initializer:
        values = onnx.numpy_helper.to_array(constant).copy()
        if constant.name in weighted[-2].input[1:]:
            values[0] *= 1000
        elif constant.name == weighted[-1].input[1]:
            values[:, 0] /= 1000
        constant.CopyFrom(onnx.numpy_helper.from_array(values, constant.name))
    with draft(tmp_path / "uneven") as folder:
        onnx.save(model, folder / "model.onnx")
        seal(folder, exported.card)
    return tmp_path / "uneven"


def test_max_drop_leaves_the_blocks_float_that_do_the_harm(uneven, tmp_path):
    whole = tlopt.quantize(uneven, tmp_path / "whole", for_="tensorrt", samples=16)
    made = tlopt.quantize(uneven, tmp_path / "made", for_="tensorrt", samples=16, max_drop=0.01)
    found = made.card.quantized.sensitivity
    assert found.met
    assert found.trade_off[0].drop > 0.01
    assert found.trade_off[-1].drop <= 0.01
    assert set(found.float_blocks) == {"down"}
    graphs = [onnx.load(artifact.payload(".onnx")).graph for artifact in (whole, made)]
    before, after = (sum(node.op_type == "QuantizeLinear" for node in graph.node) for graph in graphs)
    assert 0 < after < before
    notes = show(made).notes
    assert any(note.startswith("Float: down (alone in float: +") for note in notes)
    assert any(note.startswith("Trade-off: all in integers: drop") for note in notes)


@pytest.mark.slow
def test_max_drop_changes_nothing_where_integers_do(exported, tmp_path):
    plain = tlopt.quantize(exported, tmp_path / "plain", samples=16, max_drop=0.5)
    assert plain.card.quantized.sensitivity.float_blocks == {}
    assert plain.card.quantized.sensitivity.trade_off[0].latency_ms.keys() == {"1", "32"}
    again = tlopt.quantize(exported, tmp_path / "again", samples=16)
    assert plain.payload(".onnx").read_bytes() == again.payload(".onnx").read_bytes()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
@pytest.mark.slow
def test_a_block_stays_float_where_asked(exported, held_out, tmp_path, runtime):
    found = blocks_of(View(onnx.load(exported.payload(".onnx"))))
    made = tlopt.quantize(exported, tmp_path / "q", for_=runtime, samples=16, float_blocks=("first",))
    assert made.card.quantized.float_blocks == (found[0].name,)
    graph = onnx.load(made.payload(".onnx")).graph
    reads = next(node for node in graph.node if "images" in node.input)
    assert reads.op_type == "Conv"  # the images themselves, not their integers
    assert reads.input[1] in {constant.name for constant in graph.initializer}
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 0
    expected = logits(exported, held_out)
    np.testing.assert_allclose(logits(made, held_out), expected, atol=0.04 * np.ptp(expected))
    report = show(made)
    assert f"Float by choice: {found[0].name}" in report.notes
    assert any("float_blocks=first" in note for note in report.notes)


@pytest.mark.slow
def test_the_first_block_is_the_one_after_raw_bytes(tuned, tmp_path):
    exported = tlopt.export(tuned, tmp_path / "fp32", input_="uint8")
    made = tlopt.quantize(exported, tmp_path / "q", samples=8, float_blocks=("first",))
    nodes = onnx.load(made.payload(".onnx")).graph.node
    weighted = next(i for i, node in enumerate(nodes) if node.op_type == "Conv")
    assert all(node.op_type != "QuantizeLinear" for node in nodes[:weighted])


def test_blocks_asked_for_are_not_searched(uneven, tmp_path):
    first = blocks_of(View(onnx.load(uneven / "model.onnx")))[0].name
    made = tlopt.quantize(uneven, tmp_path / "q", for_="tensorrt", samples=16, max_drop=0.01, float_blocks=(first,))
    found = made.card.quantized.sensitivity
    assert found.met
    assert set(found.float_blocks) == {"down"}
    assert first not in found.blocks
    assert any(note.startswith("Trade-off: all others in integers: drop") for note in show(made).notes)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp8"])
def test_a_block_stays_fp32_at_any_precision(exported, tmp_path, precision):
    made = tlopt.quantize(
        exported, tmp_path / "q", precision=precision, for_="tensorrt", samples=8, float_blocks=("first",)
    )
    reads = next(node for node in onnx.load(made.payload(".onnx")).graph.node if "images" in node.input)
    assert reads.op_type == "Conv"


def test_a_block_that_is_not_there_is_named_with_those_that_are(exported, tmp_path):
    names = [block.name for block in blocks_of(View(onnx.load(exported.payload(".onnx"))))]
    with pytest.raises(SettingError, match="The graph has no block 'stem9'") as error:
        tlopt.quantize(exported, tmp_path / "q", samples=8, float_blocks=("stem9",))
    assert all(name in error.value.hint for name in names)
    with pytest.raises(SettingError, match="float_blocks leaves no weights to quantize"):
        tlopt.quantize(exported, tmp_path / "q", samples=8, float_blocks=tuple(names))
    assert not any(tmp_path.iterdir())


def test_a_drop_that_cannot_be_met_gives_the_best_and_a_warning(uneven, tmp_path, monkeypatch, caplog):
    every = blocks.blocks_of
    monkeypatch.setattr(blocks, "blocks_of", lambda view, **_: every(view)[:1])  # only the harmless one may be float
    made = tlopt.quantize(uneven, tmp_path / "made", for_="tensorrt", samples=16, max_drop=0.01)
    assert not made.card.quantized.sensitivity.met
    assert "Best found" in caplog.text


def with_fixed_batch(exported, out):
    model = onnx.load(exported.payload(".onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    with draft(out) as folder:
        onnx.save(model, folder / "model.onnx")
        seal(folder, replace(exported.card, details=replace(exported.card.onnx, fixed_batch=2)))
    return out


@pytest.mark.slow
def test_a_graph_with_a_fixed_batch_takes_any_number_of_images(exported, held_out, tmp_path):
    fixed = with_fixed_batch(exported, tmp_path / "fixed")
    made = tlopt.quantize(fixed, tmp_path / "q", samples=9)
    expected = logits(exported, held_out)
    np.testing.assert_allclose(logits(made, held_out), expected, atol=0.04 * np.ptp(expected))
    halved = tlopt.quantize(fixed, tmp_path / "half", precision="fp16", samples=9)
    assert halved.card.precision == "fp16"


@pytest.mark.slow
def test_max_drop_takes_graphs_with_a_fixed_batch(exported, tmp_path):
    made = tlopt.quantize(with_fixed_batch(exported, tmp_path / "fixed"), tmp_path / "q", samples=8, max_drop=0.5)
    assert made.card.quantized.sensitivity.met


def test_max_drop_is_for_int8(exported, tmp_path):
    with pytest.raises(SettingError, match="max_drop is for int8, got precision fp16"):
        tlopt.quantize(exported, tmp_path / "q", precision="fp16", max_drop=0.01)


@pytest.mark.skipif(find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed")
@pytest.mark.parametrize("precision", ["int8", "fp8", "fp16", "bf16"])
def test_tensorrt_builds_what_was_quantized_for_it(exported, tmp_path, precision):
    made = tlopt.quantize(exported, tmp_path / "q", precision=precision, for_="tensorrt", samples=8)
    engine = tlopt.build(made, tmp_path / "engine", flavour="rtx", target=("sm89",))
    assert engine.card.precision == precision


@pytest.mark.skipif(find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed")
def test_tensorrt_builds_a_float_block_among_integers(exported, tmp_path):
    made = tlopt.quantize(exported, tmp_path / "q", for_="tensorrt", samples=8, float_blocks=("first",))
    engine = tlopt.build(made, tmp_path / "engine", flavour="rtx", target=("sm89",))
    assert {"Float", "Int8"} <= set(engine.card.engine.inspector.inputs)


def test_fp8_is_for_tensorrt_alone(exported, tmp_path):
    with pytest.raises(SettingError, match="onnxruntime has no fp8 kernels"):
        tlopt.quantize(exported, tmp_path / "q", precision="fp8")


@pytest.mark.slow
def test_the_blocks_of_a_real_network_are_measured_on_both_sides(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(verdict, "TIMED", (1,))
    monkeypatch.setattr(images, "SEARCHED", 12)
    seen: list[object] = []

    def medians_ms(calls, **_):
        # The float network, which comes first, takes 10 ms, that in integers 5 ms, each with a block in float a
        # little more than the one before. A clock would tell how busy the machine is.
        seen.extend(call.func for call in calls if not any(call.func is one for one in seen))
        places = [next(i for i, one in enumerate(seen) if one is call.func) for call in calls]
        return [10.0 if place == 0 else 5 + 0.01 * place for place in places]

    monkeypatch.setattr(verdict, "medians_ms", medians_ms)
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(f"class {i}" for i in range(1000)))
    imported = tlopt.import_model(
        None, tmp_path / "torch", model="pip:efficientnet_lite0", classes=classes, image_size=96
    )
    fp32 = tlopt.export(imported, tmp_path / "fp32")
    options = {"images": photos, "samples": 8, "rounding": "nearest", "bias_correction": False}
    made = tlopt.quantize(fp32, tmp_path / "int8", max_drop=0.0, **options)
    found = made.card.quantized.sensitivity
    assert len(found.blocks) == 18
    assert "blocks.6.0" in found.blocks
    assert all(math.isfinite(block.latency) for block in found.blocks.values())
    rows = found.trade_off
    assert rows[-1].snr_db > rows[0].snr_db
    assert min(row.drop for row in rows) < rows[0].drop
    # A block left float is a part of the graph without rounding, all else is as it was.
    kinds = [node.op_type for node in onnx.load(made.payload(".onnx")).graph.node]
    assert 20 < kinds.count("QuantizeLinear") < 61


@pytest.mark.slow
def test_images_need_no_labels(exported, photos, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, file in enumerate(sorted(photos.glob("*/*.png"))[::4]):
        (flat / f"{i}.png").write_bytes(file.read_bytes())
    made = tlopt.quantize(exported, tmp_path / "out", images=flat, samples=8)
    measured = made.card.quantized.measured
    assert made.card.quantized.calibration_images == 8
    assert measured.images == 2
    assert measured.accuracy is None
    report = tlopt.bench([exported, made], images=flat, batch=(1,), seconds=0.01, memory=False)
    assert report.rows
