from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import tlopt
from tlopt import sessions
from tlopt.errors import ArtifactError


@pytest.fixture
def graph():
    """images -> Relu -> logits."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("images", "logits")]
    made = helper.make_graph([helper.make_node("Relu", ["images"], ["logits"])], "g", ends[:1], ends[1:])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_nothing_else_opens_sessions():
    root = Path(tlopt.__file__).parent
    doors = {f.relative_to(root) for f in root.rglob("*.py") if "InferenceSession(" in f.read_text(encoding="utf-8")}
    # Those that run elsewhere, without tlopt, open their own.
    elsewhere = {Path("deployment/programs/run_with_onnxruntime.py"), Path("deployment/serving/inside/backend.py")}
    assert doors - elsewhere == {Path("sessions.py")}


@pytest.mark.parametrize("kind", ["graph", "bytes", "file"])
def test_a_graph_its_bytes_and_its_file_are_opened(kind, graph, tmp_path):
    content = graph.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    model = {"graph": graph, "bytes": content, "file": tmp_path / "model.onnx"}[kind]
    found = sessions.open_session(model).run(None, {"images": np.array([-1, 1], np.float32)})[0]
    np.testing.assert_array_equal(found, [0, 1])


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E5M2", "INT4", "INT8", "UINT8"])
def test_no_relu_is_lost_whatever_its_result_is_rounded_to(kind, tmp_path):
    zero = helper.make_tensor("zero", getattr(TensorProto, kind), [], b"\0", raw=True)
    nodes = [
        helper.make_node("Relu", ["images"], ["positive"]),
        helper.make_node("QuantizeLinear", ["positive", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["logits"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("images", "logits")]
    constants = [numpy_helper.from_array(np.float32(0.5), "scale"), zero]
    graph = helper.make_graph(nodes, "rounds", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    inputs = {"images": np.array([-1, 3], np.float32)}
    np.testing.assert_array_equal(sessions.open_session(model).run(None, inputs)[0], [0, 3])
    file = tmp_path / "model.onnx"
    file.write_bytes(model.SerializeToString())
    for given in (file, model.SerializeToString()):
        assert sessions.rounds_to_other_types(given) == (kind not in ("INT8", "UINT8"))
        np.testing.assert_array_equal(sessions.open_session(given).run(None, inputs)[0], [0, 3])


def test_every_session_is_quiet_stops_spinning_and_takes_the_cores_there_are(graph, monkeypatch):
    monkeypatch.setattr(sessions, "cores", lambda: 3)
    options = sessions.open_session(graph).get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.log_severity_level == 4
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    own = {"session.disable_quant_qdq": "1"}
    options = sessions.open_session(graph, threads=1, optimize=False, arena=False, entries=own).get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert not options.enable_cpu_mem_arena
    assert options.get_session_config_entry("session.disable_quant_qdq") == "1"


@pytest.mark.parametrize("kind", ["graph", "bytes", "file"])
def test_float64_without_a_kernel_is_said_in_words(kind, tmp_path):
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1)), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1, n, 2, 2]) for name, n in (("x", 3), ("y", 2))]
    made = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    given = {"graph": model, "bytes": model.SerializeToString(), "file": tmp_path / "m.onnx"}[kind]
    with pytest.raises(ArtifactError, match="no Conv in float64"):
        sessions.open_session(given)


def test_a_graph_that_cannot_be_opened_prints_nothing(graph, capfd, tmp_path):
    graph.graph.node[0].op_type = "Missing"
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    for opens in (sessions.open_session, sessions.simplified):
        with pytest.raises(Exception, match="Missing"):
            opens(tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
