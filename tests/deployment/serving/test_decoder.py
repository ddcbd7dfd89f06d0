"""The step that decodes images inside the server."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from fake_triton import Request, triton_utils  # noqa: F401 - a fixture

from tlopt.deployment import reference, vendored
from tlopt.deployment.job import Job
from tlopt.reading.image_files import read_image


@pytest.fixture
def decoder(triton_utils, exported, tmp_path):  # noqa: F811
    """The step of the tiny network, opened."""
    job = Job(artifacts=(exported,), target="triton", name="tiny", backend="onnxruntime", input="image", max_batch=8)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "decoding.py").write_text(vendored.decoding(job))
    config = {"input": [{"name": "image"}], "output": [{"name": "images"}]}
    made = importlib.import_module("tlopt.deployment.serving.inside.decoder").TritonPythonModel()
    made.initialize({"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"})
    return made


def test_files_become_the_inputs_that_tlopt_makes_of_them(decoder, exported, tmp_path):
    files = reference.images(3)
    wanted = []
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        wanted.append(exported.card.preprocess(read_image(tmp_path / name)))
    contents = np.array(list(files.values()), dtype=np.object_)
    two, one = decoder.execute([Request(image=contents[:2, None]), Request(image=contents[2:, None])])
    np.testing.assert_array_equal(np.concatenate([two.numbers(), one.numbers()]), np.stack(wanted))


def test_a_request_without_a_file_is_an_error_of_its_own(decoder):
    good = next(iter(reference.images(1).values()))
    empty, filled = np.zeros((0, 1), np.object_), np.array([[good]], dtype=np.object_)
    failed, answered = decoder.execute([Request(image=empty), Request(image=filled)])
    assert failed.error.code == 3
    assert "no image" in str(failed.error)
    assert answered.numbers().shape == (1, 3, 32, 32)


def test_a_failure_of_one_request_is_none_of_the_others(decoder, monkeypatch):
    good = next(iter(reference.images(1).values()))
    requests = [Request(image=np.array([[one]], dtype=np.object_)) for one in (good, good)]
    make, calls = decoder._decoding.PREPROCESS, iter([MemoryError("too large\nby far"), None])

    def fail_once(file):
        if error := next(calls):
            raise error
        return make(file)

    monkeypatch.setattr(decoder._decoding, "PREPROCESS", fail_once)
    failed, answered = decoder.execute(requests)
    assert failed.error.code == 0
    assert str(failed.error) == "MemoryError: too large by far"
    assert answered.numbers().shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    "content", [b"", b"no image", next(iter(reference.images(1).values()))[:100]], ids=["empty", "text", "cut off"]
)
def test_a_file_that_is_no_image_is_the_error_of_its_request_alone(decoder, content):
    good = next(iter(reference.images(1).values()))
    requests = [Request(image=np.array([[one]], dtype=np.object_)) for one in (content, good)]
    failed, answered = decoder.execute(requests)
    assert failed.error.code == 3
    assert "\n" not in str(failed.error)
    assert answered.numbers().shape == (1, 3, 32, 32)
