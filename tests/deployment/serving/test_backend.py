"""What stands in for Triton's own backends: it computes what they compute and refuses what they refuse."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from fake_triton import Request, TritonModelException, triton_utils  # noqa: F401 - a fixture

BATCHED = [{"name": "images", "data_type": "TYPE_FP32", "dims": ["-1", "3", "32", "32"]}]
ANSWERS = [{"name": "logits", "data_type": "TYPE_FP32", "dims": ["-1", "3"]}]


@pytest.fixture
def model(triton_utils, exported, tmp_path):  # noqa: F811
    """Opens the tiny network by a configuration, with some of it changed."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(exported.payload(".onnx").read_bytes())

    def opened(backend="onnxruntime", **changes):
        config = {
            "backend": backend,
            "default_model_filename": "model.onnx",
            "max_batch_size": 8,
            "input": [{"name": "images", "data_type": "TYPE_FP32", "dims": ["3", "32", "32"]}],
            "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": ["3"]}],
            "parameters": {"intra_op_thread_count": {"string_value": "1"}, "NUM_STREAMS": {"string_value": "1"}},
            **changes,
        }
        module = importlib.import_module("tlopt.deployment.serving.inside.backend")
        made = module.TritonPythonModel()
        made.initialize({"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"})
        return made

    return opened


def test_openvino_takes_the_largest_batch_alone_as_in_triton(model):
    two = np.zeros((2, 3, 32, 32), np.float32)
    opened = model("openvino", max_batch_size=4)
    assert "expected requests with batch size 4, got 2" in str(opened.execute([Request(images=two)])[0].error)
    assert [len(one.numbers()) for one in opened.execute([Request(images=two), Request(images=two)])] == [2, 2]


@pytest.mark.parametrize("changes", [{}, {"backend": "openvino", "max_batch_size": 5}])
def test_requests_run_together_and_each_gets_its_own_answers(model, exported, changes):
    from tlopt.backends import open_runner

    inputs = np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32)
    with open_runner(exported, changes.get("backend", "")) as runner:
        wanted = runner(inputs)
    responses = model(**changes).execute(
        [Request(images=inputs[:2]), Request(images=inputs[2:3]), Request(images=inputs[3:])]
    )
    assert [len(one.numbers()) for one in responses] == [2, 1, 2]
    np.testing.assert_allclose(np.concatenate([one.numbers() for one in responses]), wanted, rtol=1e-4, atol=1e-4)


def test_what_the_runtime_raises_is_the_answer_to_each_request(model):
    wrong = np.zeros((1, 3, 16, 8), np.float64)
    responses = model().execute([Request(images=wrong), Request(images=wrong)])
    assert all("InvalidArgument" in str(one.error) for one in responses)


@pytest.mark.parametrize(
    "changes", [{}, {"max_batch_size": 0, "input": BATCHED, "output": ANSWERS}], ids=["batch", "single"]
)
def test_a_wrong_request_does_not_spoil_the_others(model, changes):
    right, wrong = np.zeros((2, 3, 32, 32), np.float32), np.zeros((1, 3, 16, 8), np.float32)
    first, second, third = model(**changes).execute(
        [Request(images=right), Request(images=wrong), Request(images=right)]
    )
    assert second.error
    assert [len(one.numbers()) for one in (first, third)] == [2, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": [{"name": "pixels", "data_type": "TYPE_FP32", "dims": ["3", "32", "32"]}]}, "no tensor 'pixels'"),
        ({"input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": ["3", "32", "32"]}]}, "not TYPE_UINT8"),
        ({"output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": ["4"]}]}, r"the shape \(3,\), not \(4,\)"),
        ({"max_batch_size": 0}, "the network has the shape"),
    ],
)
def test_a_configuration_of_another_network_is_refused(model, changes, said):
    with pytest.raises(TritonModelException, match=said):
        model(**changes)
