"""The repository for OpenVINO Model Server."""

from __future__ import annotations

import ast
import json
import re

import numpy as np
import onnx
import openvino
import pytest
from brightest import write_fixed, write_onnx

import tlopt
from tlopt.deployment import kserve
from tlopt.deployment.job import Job
from tlopt.preprocess import Preprocess


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_onnx(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def deployment(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    return tlopt.deploy(tiny, out, for_="openvino-server", name="birds_1.0", max_batch=8, instances=2)


def test_the_repository_is_laid_out_as_the_server_wants_it(deployment):
    folder = deployment.path
    config = json.loads((folder / "config.json").read_text())
    (entry,) = config["model_config_list"]
    assert set(config) == {"model_config_list"}
    assert entry["config"]["name"] == "birds_1.0"
    assert (folder / entry["config"]["base_path"] / "1/model.xml").is_file()
    assert (folder / entry["config"]["base_path"] / "1/model.bin").is_file()
    assert entry["config"]["nireq"] == 2
    assert entry["config"]["plugin_config"] == {
        "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "2", "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip


def test_it_was_checked_with_openvino_and_says_what_that_leaves_open(deployment):
    check = deployment.manifest.check
    assert check.by.startswith("OpenVINO 20")
    assert check.agreement == 1
    assert re.search("streams here: [12]", check.proves[0])  # as many as there are cores, at most
    assert "server itself was not started" in check.leaves_open[0]


def test_the_model_takes_pixels_in_batches_up_to_the_most(deployment):
    model = openvino.Core().read_model(deployment.path / "birds_1.0/1/model.xml")
    image = model.input(0)
    assert image.get_element_type().to_dtype() == np.uint8
    assert str(image.partial_shape) == "[1..8,16,16,3]"
    assert image.any_name == "images"
    compiled = openvino.Core().compile_model(model, "CPU")
    with pytest.raises(RuntimeError):
        compiled({"images": np.zeros((9, 16, 16, 3), np.uint8)})


@pytest.mark.parametrize("max_batch", [1, 2])
def test_a_small_batch_is_checked_in_several_runs(tiny, tmp_path, max_batch):
    made = tlopt.deploy(tiny, tmp_path / "out", for_="openvino-server", max_batch=max_batch)
    assert made.manifest.check.images == 3


def test_a_fixed_batch_stays(tmp_path):
    made = tlopt.deploy(write_fixed(tmp_path / "fixed", 2), tmp_path / "out", for_="openvino-server")
    model = openvino.Core().read_model(made.path / "fixed/1/model.xml")
    assert str(model.input(0).partial_shape) == "[2,16,16,3]"
    assert made.manifest.check.agreement == 1


def test_the_service_for_kserve_is_yaml_that_says_the_same(deployment):
    yaml = pytest.importorskip("yaml")
    said = yaml.safe_load((deployment.path / "kserve.yaml").read_text())
    assert said["kind"] == "InferenceService"
    assert said["metadata"]["name"] == "birds-1-0"
    model = said["spec"]["predictor"]["model"]
    assert model["runtime"] == "kserve-openvino"
    assert model["storageUri"].endswith("/birds_1.0")
    flag, _, value = model["args"][0].partition("=")
    config = json.loads((deployment.path / "config.json").read_text())["model_config_list"][0]["config"]
    assert flag == "--plugin_config"
    assert json.loads(value) == config["plugin_config"]


def test_the_service_for_triton_names_the_repository(tiny):
    yaml = pytest.importorskip("yaml")
    job = Job(artifacts=(tiny,), target="triton", name="9x", backend="onnxruntime", input="image", max_batch=8)
    said = yaml.safe_load(kserve.service(job, server="triton", folder="models"))
    model = said["spec"]["predictor"]["model"]
    assert (model["runtime"], model["modelFormat"]["name"]) == ("kserve-tritonserver", "triton")
    assert model["storageUri"].endswith("/models")
    assert "args" not in model
    assert said["metadata"]["name"] == "model-9x"


@pytest.mark.parametrize("gpu", [True, False])
def test_a_service_asks_for_a_gpu_and_for_the_processors_of_its_instances(gpu, tiny):
    yaml = pytest.importorskip("yaml")
    job = Job(artifacts=(tiny,), target="triton", name="a", backend="onnxruntime", input="image", max_batch=8,
              instances=2, threads=3)  # fmt: skip
    said = yaml.safe_load(kserve.service(job, server="triton", folder="models", gpu=gpu))
    limits = said["spec"]["predictor"]["model"]["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) is gpu
    assert limits["cpu"] == "6"


@pytest.mark.parametrize(
    ("name", "expected"), [("A_b.C", "a-b-c"), ("9", "model-9"), ("x" * 63, "x" * 63), ("a--", "a")]
)
def test_names_become_labels_of_kubernetes(name, expected):
    assert kserve.label(name) == expected


@pytest.mark.parametrize("name", ["true", "null", "No", "on", "y"])
def test_a_name_that_is_a_word_of_yaml_stays_a_name(tiny, name):
    yaml = pytest.importorskip("yaml")
    job = Job(artifacts=(tiny,), target="triton", name=name, backend="onnxruntime", input="image", max_batch=8)
    said = yaml.safe_load(kserve.service(job, server="triton", folder="models"))
    assert said["metadata"]["name"] == name.lower()


def test_the_readme_names_tensors_as_code_whatever_they_are_called(tmp_path):
    artifact = write_onnx(tmp_path / "odd")
    graph = onnx.load(artifact.payload(".onnx"))
    old, new = graph.graph.output[0].name, 'a"b\\c'
    for node in graph.graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
    graph.graph.output[0].name = new
    made = tlopt.deploy(write_onnx(tmp_path / "odd", model=graph), tmp_path / "out", for_="openvino-server")
    text = (made.path / "README.md").read_text()
    code = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    ") and "docker" not in line)
    calls = [
        node for node in ast.walk(ast.parse(code.replace("python client.py IMAGE", ""))) if isinstance(node, ast.Call)
    ]
    (asked,) = [call for call in calls if getattr(call.func, "attr", "") == "as_numpy"]
    assert asked.args[0].value == new


def test_other_layouts_and_channels_are_answered_alike(tmp_path):
    bgr = write_onnx(tmp_path / "bgr", preprocess=Preprocess(size=16, channels="bgr", mean=(0.1, 0.2, 0.3)))
    made = tlopt.deploy(bgr, tmp_path / "out", for_="openvino-server")
    assert made.manifest.check.difference < 1e-3
