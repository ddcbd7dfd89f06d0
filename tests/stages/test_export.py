import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import tlopt
from tlopt.errors import ArtifactError, CheckError, OutputExistsError, SettingError
from tlopt.images import batches, reopen
from tlopt.networks import tracing
from tlopt.stages import export as export_module


def test_export_writes_a_graph_with_a_dynamic_batch(exported):
    proto = onnx.load(exported.payload(".onnx"))
    assert [value.name for value in proto.graph.input] == ["images"]
    assert [value.name for value in proto.graph.output] == ["logits"]
    session = onnxruntime.InferenceSession(exported.payload(".onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        logits = session.run(None, {"images": np.zeros((count, 3, 32, 32), np.float32)})[0]
        assert logits.shape == (count, 3)


def test_export_folds_batch_norms_into_convolutions(exported):
    operators = {node.op_type for node in onnx.load(exported.payload(".onnx")).graph.node}
    assert "BatchNormalization" not in operators


def test_export_records_its_comparison_with_torch(exported, tuned):
    parity = exported.card.onnx.parity
    assert parity.origin == "validation images"
    assert parity.agreement == 1
    assert parity.difference < export_module.TOLERANCE
    assert [step.stage for step in exported.card.lineage] == ["finetune", "export"]
    assert exported.card.lineage[1].source == tuned.digest


def test_export_leaves_no_path_of_this_machine_in_the_file(exported):
    assert b"site-packages" not in exported.payload(".onnx").read_bytes()
    assert b"tiny_models" not in exported.payload(".onnx").read_bytes()


@pytest.mark.slow
def test_raw_bytes_give_the_same_logits_as_normalized_floats(tuned, exported, tmp_path):
    raw = tlopt.export(tuned, tmp_path / "raw", input_="uint8")
    part = reopen(tuned.card.images)["test"]
    floats = next(batches(part, exported.card.preprocess, batch=len(part))).inputs
    pixels = next(batches(part, raw.card.preprocess, batch=len(part))).inputs
    assert pixels.dtype == np.uint8
    assert pixels.shape[1:] == (32, 32, 3)
    with tlopt.open_runner(exported) as first, tlopt.open_runner(raw) as second:
        # Scaling in the graph multiplies and adds the same float32 numbers: equal up to the last bits.
        np.testing.assert_allclose(second(pixels), first(floats), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_graph_that_computes_something_else_is_refused(tuned, tmp_path, monkeypatch):
    trace = tracing.trace

    def wrong(model, size, opset):
        proto, program = trace(model, size, opset)
        for tensor in proto.graph.initializer:
            if "classifier" in tensor.name and "weight" in tensor.name:
                values = onnx.numpy_helper.to_array(tensor) * 1.5
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return proto, program

    monkeypatch.setattr(tracing, "trace", wrong)
    with pytest.raises(CheckError, match="differs from the torch model"):
        tlopt.export(tuned, tmp_path / "wrong")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("noise", "right"), [(4e-3, True), (1.0, False)])
def test_a_network_that_rounds_coarsely_is_judged_by_exact_arithmetic(tmp_path, monkeypatch, noise, right):
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    made = tlopt.import_model(
        None, tmp_path / "net", model="odd_nets:cancelling", classes=tmp_path / "names.txt", image_size=32
    )
    run = export_module._run

    def disturbed(*given):
        runtime, logits = run(*given)
        return runtime, logits + noise * np.float32(logits.std()) * np.linspace(-1, 1, logits.size).reshape(
            logits.shape
        )

    monkeypatch.setattr(export_module, "_run", disturbed)
    if right:
        assert tlopt.export(made, tmp_path / "fp32").card.onnx.parity.difference > export_module.TOLERANCE
    else:
        with pytest.raises(CheckError, match="differs from the torch model"):
            tlopt.export(made, tmp_path / "fp32")


@pytest.mark.slow
def test_one_command_goes_from_a_tuned_artifact_to_an_engine(tuned, tmp_path):
    engine = tlopt.export(tuned, tmp_path / "engine", trt=True, precision="int8", target=("sm89",))
    assert engine.card.kind == "tensorrt"
    assert engine.card.precision == "int8"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "engine-fp32", "engine-int8"]
    assert [step.stage for step in engine.card.lineage] == ["finetune", "export", "quantize", "build"]


def test_the_chain_refuses_before_it_begins(tuned, tmp_path):
    (tmp_path / "engine-fp32").mkdir()
    (tmp_path / "engine-fp32" / "x").write_text("mine")
    with pytest.raises(OutputExistsError, match="engine-fp32"):
        tlopt.export(tuned, tmp_path / "engine", trt=True)
    assert [path.name for path in tmp_path.iterdir()] == ["engine-fp32"]


def test_a_target_needs_trt(tuned, tmp_path):
    with pytest.raises(SettingError, match="--target is for engines"):
        tlopt.export(tuned, tmp_path / "x", target=("sm89",))


@pytest.mark.parametrize(("out", "message"), [(".", "is the current folder"), ("/", "is the root folder")])
def test_the_chain_is_refused_where_no_folder_can_be_made(tuned, out, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputExistsError, match=message):
        tlopt.export(tuned, out, precision="fp16", force=True)


def test_what_is_made_on_the_way_lies_beside_the_folder_that_a_path_leads_to(tmp_path):
    (tmp_path / "made" / "below").mkdir(parents=True)
    out = tmp_path / "made" / "below" / ".."
    given = {"kind": "torch", "precision": "fp16", "trt": False, "input_": "float32"}
    assert export_module.on_the_way(out, **given) == [tmp_path / "made-fp32"]


@pytest.mark.slow
def test_the_chain_goes_on_with_what_a_killed_run_left_on_the_way(tuned, tmp_path):
    left = tlopt.export(tuned, tmp_path / "x-fp32")
    with pytest.raises(OutputExistsError, match="x-fp32 exists already"):
        tlopt.export(tuned, tmp_path / "x", precision="fp16", opset=19)
    written = left.payload(".onnx").stat().st_mtime_ns
    made = tlopt.export(tuned, tmp_path / "x", precision="fp16")
    assert made.card.precision == "fp16"
    assert left.payload(".onnx").stat().st_mtime_ns == written
    assert tlopt.export(tuned, tmp_path / "x", precision="fp16", force=True).digest == made.digest


def test_export_refuses_an_onnx_artifact_that_would_stay_as_it_is(exported, tmp_path):
    with pytest.raises(ArtifactError, match="is an ONNX artifact already"):
        tlopt.export(exported, tmp_path / "x")


@pytest.mark.slow
def test_import_takes_an_onnx_file_of_any_tool(tuned, tmp_path):
    model = tlopt.open_model(tuned)

    class Foreign(torch.nn.Module):
        """Channels last, probabilities out, a fixed batch: as another tool might write it."""

        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x.permute(0, 3, 1, 2)).softmax(1)

    file = tmp_path / "foreign.onnx"
    torch.onnx.export(
        Foreign().eval(), (torch.zeros(1, 32, 32, 3),), file, input_names=["in:0"], output_names=["prob"], dynamo=True
    )
    (tmp_path / "names.txt").write_text("blue\ngreen\nred\n")
    artifact = tlopt.import_model(
        file, tmp_path / "imported", classes=tmp_path / "names.txt", mean=(0.5,) * 3, std=(0.5,) * 3,
        crop_ratio=1.0, interpolation="bilinear",
    )  # fmt: skip
    assert artifact.card.kind == "onnx"
    assert artifact.card.preprocess.layout == "nhwc"
    assert artifact.card.preprocess.size == 32
    images = reopen(tuned.card.images)["test"]
    with tlopt.open_runner(artifact) as runner, tlopt.open_runner(tuned) as reference:
        for batch, other in zip(
            batches(images, artifact.card.preprocess, batch=1), batches(images, tuned.card.preprocess, batch=1),
            strict=True,
        ):  # fmt: skip
            assert runner(batch.inputs).argmax() == reference(other.inputs).argmax()


def test_import_names_what_is_wrong_with_a_file(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\xff no model")
    with pytest.raises(ArtifactError, match=r"x\.onnx is not a readable ONNX file"):
        tlopt.import_model(tmp_path / "x.onnx", tmp_path / "out")
    with pytest.raises(ArtifactError, match="There is no file at"):
        tlopt.import_model(tmp_path / "y.onnx", tmp_path / "out")


@pytest.mark.slow
def test_import_takes_a_pretrained_model(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps(["a", "b"]))
    with pytest.raises(SettingError, match="names 2 classes, the model has 1000"):
        tlopt.import_model(None, tmp_path / "out", model="pip:efficientnet_lite0", classes=tmp_path / "names.json")
    artifact = tlopt.import_model(None, tmp_path / "out", model="pip:efficientnet_lite0")
    assert len(artifact.card.classes) == 1000
    assert artifact.card.preprocess.size == 224
    assert artifact.card.preprocess.mean == pytest.approx((127 / 255,) * 3)


def test_import_needs_either_a_file_or_a_model(tmp_path):
    with pytest.raises(SettingError, match="either a file or --model"):
        tlopt.import_model(None, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["weight", "spectral"])
def test_a_network_with_an_old_norm_of_its_weights_is_exported(tmp_path, kind):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    model, names = f"odd_nets:normalized?kind={kind}", tmp_path / "names.txt"
    made = tlopt.import_model(None, tmp_path / "net", model=model, classes=names, image_size=32)
    assert tlopt.export(made, tmp_path / "onnx").card.kind == "onnx"
