from __future__ import annotations

import pytest

from tlopt.errors import StageError
from tlopt.measure.candidates import on_gpu
from tlopt.measure.compare import compare
from tlopt.measure.evaluate import evaluate
from tlopt.measure.predict import predict
from tlopt.measure.profile import profile


def _break(self, inputs):
    raise RuntimeError("the device is gone\nstack")


def test_a_runtime_that_fails_while_evaluating_is_one_clear_error(tiny, biased, monkeypatch):
    from tlopt.backends.onnxruntime import Runner

    monkeypatch.setattr(Runner, "__call__", _break)
    calls = (
        lambda: evaluate(tiny),
        lambda: compare(tiny, biased),
        lambda: list(predict(tiny, tiny.card.images.path)),
        lambda: profile(tiny),
    )
    for call in calls:
        with pytest.raises(
            StageError, match=r"onnxruntime:cpu failed while running .*tiny: the device is gone"
        ) as error:
            call()
        assert "stack" not in str(error.value)
        assert isinstance(error.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("backend", "there"),
    [("tensorrt", True), ("torch:cuda-fp16", True), ("onnxruntime:tensorrt", True), ("openvino:gpu", False)],
)
def test_what_computes_on_an_nvidia_gpu_is_known_by_name(backend, there):
    assert on_gpu(backend) == there
