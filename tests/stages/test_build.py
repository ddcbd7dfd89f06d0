import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tlopt.artifact import Artifact, seal
from tlopt.cards.card import Card
from tlopt.engine import flavour
from tlopt.engine import gpu as gpus
from tlopt.engine.building import builder
from tlopt.engine.building.options import Options
from tlopt.errors import ArtifactError, MissingLibraryError, PluginError, SettingError, StageError
from tlopt.preprocess import Preprocess
from tlopt.publishing import draft
from tlopt.settings import parameters
from tlopt.show import show
from tlopt.stages.build import build

if flavour.problem("rtx"):
    pytest.skip(flavour.problem("rtx"), allow_module_level=True)

without_gpu = pytest.mark.skipif(gpus.gpu() is not None, reason="there is a GPU here")


def network(precision="fp32", *, operator="Relu", batch="n", folded=False, scale_shape=()):
    """Conv, Relu, GlobalAveragePool, Flatten, Gemm on 16 x 16 pixels, 8 channels, 4 classes."""
    random = np.random.default_rng(0)
    kind = np.float16 if precision == "fp16" else np.float32
    tensors = {
        "weight": random.standard_normal((8, 3, 3, 3)).astype(kind),
        "head": random.standard_normal((8, 4)).astype(kind),
    }
    nodes, inputs = [], ["images", "weight"]
    if folded:
        nodes.append(helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]))
        inputs[0] = "planes"
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", ["images"], ["half"], to=TensorProto.FLOAT16))
        inputs[0] = "half"
    if precision in ("int8", "fp8"):
        for name, source, scale, axis in (
            ("x", "images", np.full(scale_shape, 0.02, np.float32), None),
            ("w", "weight", np.full(8, 0.03, np.float32), 0),
        ):
            tensors[f"{name}_scale"] = scale
            zero = np.zeros(np.shape(scale), np.int8)
            tensors[f"{name}_zero"] = zero
            attributes = {} if axis is None else {"axis": axis}
            ends = [f"{name}_scale", f"{name}_zero"]
            nodes.append(helper.make_node("QuantizeLinear", [source, *ends], [f"{name}_q"], **attributes))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *ends], [f"{name}_dq"], **attributes))
        inputs = ["x_dq", "w_dq"]
    nodes += [
        helper.make_node("Conv", inputs, ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node(operator, ["c"], ["r"], name="act"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "head"], ["g" if precision == "fp16" else "logits"], name="gemm"),
    ]
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", ["g"], ["logits"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, 16, 16, 3])
            if folded
            else helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 16, 16])
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def onnx_artifact(tmp_path):
    def make(precision="fp32", **options) -> Artifact:
        path = tmp_path / f"onnx-{precision}-{len(list(tmp_path.iterdir()))}"
        with draft(path) as scratch:
            onnx.save(network(precision, **options), scratch / "model.onnx")
            card = Card(
                kind="onnx",
                model="test:tiny",
                precision=precision,
                classes=("a", "b", "c", "d"),
                preprocess=Preprocess(size=16, folded=options.get("folded", False)),
            )
            seal(scratch, card)
        return Artifact.load(path)

    return make


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_build_makes_an_engine_for_four_gpus_where_there_is_none(onnx_artifact, tmp_path, precision):
    made = build(onnx_artifact(precision), tmp_path / "engine", target=("sm80", "sm86", "sm89", "sm120"), max_batch=16)
    details = made.card.engine
    assert made.card.kind == "tensorrt"
    assert made.card.precision == precision
    assert made.card.classes == ("a", "b", "c", "d")
    assert made.payload(".engine").stat().st_size > 1000
    assert details.flavour == "rtx"
    assert details.targets == ("sm80", "sm86", "sm89", "sm120")
    assert details.profile.shape == (3, 16, 16)
    assert (details.profile.min_batch, details.profile.opt_batch, details.profile.max_batch) == (1, 8, 16)
    assert made.card.lineage[-1].stage == "build"


@pytest.mark.parametrize(("smallest", "largest", "tuned"), [(1, 32, 8), (1, 1, 1), (1, 4, 4), (16, 32, 16)])
def test_an_engine_is_tuned_for_the_batch_nearest_to_eight_that_it_accepts(
    onnx_artifact, tmp_path, smallest, largest, tuned
):
    made = build(onnx_artifact(), tmp_path / "engine", target=("sm89",), min_batch=smallest, max_batch=largest)
    assert made.card.engine.profile.opt_batch == tuned


def test_the_layer_listing_names_the_onnx_nodes_and_shows_the_precision(onnx_artifact, tmp_path):
    made = build(onnx_artifact("fp16"), tmp_path / "engine", target=("sm89",))
    listing = json.loads((made.path / "layers.json").read_text())
    assert {"conv", "gemm"} <= {node for layer in listing["layers"] for node in layer["onnx"]}
    assert made.card.engine.inspector.layers == len(listing["layers"]) > 2
    assert "Half" in made.card.engine.inspector.outputs


def test_show_tells_what_is_in_an_engine(onnx_artifact, tmp_path):
    made = build(onnx_artifact("fp16"), tmp_path / "engine", target=("sm86", "sm89"), max_batch=4)
    notes = "\n".join(show(made).notes)
    assert re.search(
        r"Engine: TensorRT for RTX [\d.]+, CUDA 13, built ahead of time for sm86, sm89; batches 1 to 4", notes
    )
    assert "optimization_level=3" in notes
    assert f"Layers: {made.card.engine.inspector.layers}, from the builder log" in notes
    assert "Half" in notes
    assert "Layers' weights" not in notes  # the builder's listing has none
    details = made.card.engine
    told = replace(details, inspector=replace(details.inspector, weights={"Half": 3}))
    assert "Layers' weights: Half 3" in show(replace(made, card=replace(made.card, details=told))).notes


def test_explain_names_what_keeps_a_convolution_from_int8(onnx_artifact, tmp_path, caplog):
    build(onnx_artifact("int8", scale_shape=(1,)), tmp_path / "engine", target=("sm89",), explain=True)
    first, *strays = (tmp_path / "engine" / "explanation.txt").read_text().splitlines()
    assert first == ("0 of 2 convolutions and matrix products compute in int8. They do 0.0 % of the multiply-adds.")
    assert strays[0].startswith("conv reads Float")
    assert "the scale of node_of_x_dq is a vector of one element" in strays[0]
    assert "gemm reads Float" in strays[1]
    assert "its input comes from the node pool (GlobalAveragePool) and not from a DequantizeLinear node" in strays[1]
    assert strays[0] in caplog.text


@pytest.mark.parametrize(("precision", "done"), [("fp32", 2), ("fp16", 2), ("int8", 1)])
def test_explain_counts_what_computes_in_the_wanted_precision(onnx_artifact, tmp_path, precision, done):
    build(onnx_artifact(precision), tmp_path / "engine", target=("sm89",), explain=True)
    text = (tmp_path / "engine" / "explanation.txt").read_text()
    share = {1: "99.9", 2: "100.0"}[done]  # the convolution takes 55,296 multiply-adds, the matrix product 32
    assert text.startswith(
        f"{done} of 2 convolutions and matrix products compute in {precision}. They do {share} % of the multiply-adds."
    )
    assert len(text.splitlines()) == 1 + 2 - done


def test_an_int8_engine_without_a_layer_in_int8_is_made_with_a_warning(onnx_artifact, tmp_path, caplog):
    build(onnx_artifact("int8", scale_shape=(1,)), tmp_path / "engine", target=("sm89",))
    assert "No layer of the engine computes in int8" in caplog.text


def test_the_card_finds_its_onnx_file_again_after_both_folders_moved(onnx_artifact, tmp_path):
    source = onnx_artifact()
    made = build(source, tmp_path / "engine", target=("sm89",))
    assert made.card.engine.onnx.artifact == source.digest
    (tmp_path / "elsewhere").mkdir()
    for artifact in (source, made):
        artifact.path.rename(tmp_path / "elsewhere" / artifact.name)
    found = tmp_path / "elsewhere" / "engine" / made.card.engine.onnx.path
    assert found.read_bytes()


def test_build_takes_a_uint8_input_where_preprocessing_is_folded_in(onnx_artifact, tmp_path):
    made = build(onnx_artifact(folded=True), tmp_path / "engine", target=("sm89",))
    assert made.card.engine.profile.dtype == "uint8"
    assert made.card.engine.profile.shape == (16, 16, 3)


def test_a_fixed_batch_in_the_file_becomes_the_only_batch_of_the_engine(onnx_artifact, tmp_path, caplog):
    made = build(onnx_artifact(batch=4), tmp_path / "engine", target=("sm89",))
    profile = made.card.engine.profile
    assert profile.min_batch == profile.opt_batch == profile.max_batch == 4
    assert "batches of 4 only" in caplog.text


@without_gpu
def test_auto_builds_ahead_of_time_where_there_is_no_gpu(onnx_artifact, tmp_path):
    made = build(onnx_artifact(), tmp_path / "engine")
    assert made.card.details.targets == ("sm80", "sm86", "sm89", "sm120")
    assert made.card.engine.gpu is None


@without_gpu
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"target": ("current",)}, StageError, "The target 'current' needs a GPU"),
        ({"target": ("curent",)}, PluginError, "Unknown target 'curent'.\nDid you mean 'current'"),
        ({"target": ("sm90",)}, StageError, r"cannot build for sm90 \(Hopper: H100, H200\)"),
        ({"target": ("auto", "sm89")}, SettingError, "cannot be combined with others"),
        ({"target": ("sm89",), "flavour": "tensorrt"}, StageError, "builds only for the GPU it runs on"),
        ({"target": ("sm89",), "opt_batch": 64}, SettingError, "min <= opt <= max, got 1, 64, 32"),
        ({"target": ("sm89",), "hardware_compatible": "ampere-plus"}, SettingError, "no hardware-compatible engines"),
        ({"target": ("sm89",), "version_compatible": True}, SettingError, "no version-compatible engines"),
        ({"target": ("sm89",), "timing_cache": Path("cache")}, SettingError, "no timing cache"),
        ({"target": ("sm89",), "refit": True}, SettingError, "only on a GPU"),
        ({"target": ("sm89",), "strip_weights": True}, SettingError, "only on a GPU"),
    ],
)
def test_what_cannot_be_built_is_refused_before_any_work(
    onnx_artifact, tmp_path, monkeypatch, settings, error, message
):
    source = onnx_artifact()
    monkeypatch.setattr(builder, "Messages", lambda _: pytest.fail("work was begun"))
    with pytest.raises(error, match=message):
        build(source, tmp_path / "engine", **settings)
    assert not (tmp_path / "engine").exists()


def test_fp8_is_refused_for_a_gpu_that_does_not_compute_in_it(onnx_artifact, tmp_path):
    with pytest.raises(StageError, match=r"sm86 .* do not compute in fp8; it needs sm89"):
        build(onnx_artifact("fp8"), tmp_path / "engine", target=("sm86", "sm89"))


def test_an_operator_that_tensorrt_does_not_know_is_named_with_its_node(onnx_artifact, tmp_path):
    with pytest.raises(StageError, match=r"node 'act' .*operator Det"):
        build(onnx_artifact(operator="Det"), tmp_path / "engine", target=("sm89",))
    assert not (tmp_path / "engine").exists()


def test_too_little_workspace_is_reported_with_the_setting_to_raise(onnx_artifact, tmp_path):
    with pytest.raises(StageError, match=r"(?s)workspace limit.*--workspace-mb \(now 1\)"):
        build(onnx_artifact(), tmp_path / "engine", target=("sm89",), workspace_mb=1)


def test_build_refuses_an_artifact_that_is_not_onnx(onnx_artifact, tmp_path):
    engine = build(onnx_artifact(), tmp_path / "engine", target=("sm89",))
    with pytest.raises(ArtifactError, match="of kind tensorrt; this needs onnx"):
        build(engine, tmp_path / "again", target=("sm89",))


def test_a_network_of_another_input_size_than_its_card_is_refused(onnx_artifact, tmp_path):
    source = onnx_artifact()
    text = (source.path / "artifact.json").read_text().replace('"size": 16', '"size": 24')
    (source.path / "artifact.json").write_text(text)
    with pytest.raises(StageError, match=r"shape \(-1, 3, 16, 16\); its card says \(batch, 3, 24, 24\)"):
        build(Artifact.load(source.path), tmp_path / "engine", target=("sm89",))


def test_a_missing_library_names_the_extra_to_install(onnx_artifact, tmp_path, monkeypatch):
    def missing(name):
        raise MissingLibraryError(f"{name} is not installed.", hint="python -m pip install 'tlopt[rtx]'")

    monkeypatch.setattr(flavour, "load", missing)
    with pytest.raises(MissingLibraryError, match=r"tlopt\[rtx\]"):
        build(onnx_artifact(), tmp_path / "engine", target=("sm89",))


def test_every_setting_has_a_help_text():
    assert all(parameter.setting.help.endswith(".") for parameter in parameters(build))


def test_the_options_are_settings_of_the_stage():
    names = {parameter.name: parameter for parameter in parameters(build)}
    assert {field.name for field in fields(Options)} < names.keys()
    assert names["opt_batch"].group == "Batches"
    assert Options(min_batch=9).tuned_batch == 9
    assert Options(max_batch=4).tuned_batch == 4
    assert Options(opt_batch=2).tuned_batch == 2
