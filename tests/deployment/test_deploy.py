"""The verb: what it writes, what it says, and what deploy.json keeps of it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json

import numpy as np
import pytest
from brightest import write_onnx
from calling import called
from tiny_engine import write_engine

import tlopt
from tlopt.deployment import manifest, reference
from tlopt.deployment.job import Checks, Job
from tlopt.deployment.targets import bundle, openvino_server
from tlopt.errors import ArtifactError, CheckError
from tlopt.publishing.marks import contents


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_onnx(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def unchecked(monkeypatch):
    """Leave the check out: what a test looks at is something else."""
    monkeypatch.setattr(bundle, "problem", lambda _: "nothing here can check it.")


@pytest.mark.usefixtures("unchecked")
def test_deploy_json_says_what_it_is_and_names_every_file(tiny, tmp_path):
    made = tlopt.deploy(tiny, tmp_path / "out", for_="bundle", max_batch=4)
    said = manifest.read(tmp_path / "out")
    assert said == made.manifest
    assert (said.target, said.name, said.backend, said.input) == ("bundle", "tiny", "onnxruntime", "image")
    assert (said.max_batch, said.classes, said.answers) == (4, 5, "logits")
    assert said.artifacts[0].digest == tiny.digest
    assert said.check.not_done == "nothing here can check it."
    files = {str(f.relative_to(made.path)): f for f in made.path.rglob("*") if f.is_file()}
    del files["deploy.json"]
    assert said.files == {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


@pytest.mark.usefixtures("unchecked")
def test_force_replaces_a_deployment_and_nothing_of_anyone_else(tiny, tmp_path):
    out = tmp_path / "out"
    tlopt.deploy(tiny, out, for_="bundle", name="first")
    assert contents(out).mark.what == "a deployment"
    tlopt.deploy(tiny, out, for_="bundle", name="second", force=True)
    assert not (out / "first.tar.gz").exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(tlopt.OutputExistsError, match=r"notes\.txt would be lost"):
        tlopt.deploy(tiny, out, for_="bundle", force=True)
    with pytest.raises(tlopt.OutputExistsError, match="--force does not replace it with a deployment"):
        tlopt.deploy(tiny, write_onnx(tmp_path / "other").path, for_="bundle", force=True)


def test_a_check_that_fails_leaves_nothing_and_ends_with_3(tiny, tmp_path, monkeypatch, capsys):
    answers = reference.answers
    monkeypatch.setattr(openvino_server.reference, "answers", lambda job, files: answers(job, files)[:, ::-1])
    code, out, error = called(capsys, "deploy", tiny.path, "-o", tmp_path / "x" / "out", "--for", "openvino-server")
    assert (code, out) == (3, "")
    assert "answers otherwise than the artifact" in error
    assert list((tmp_path / "x").iterdir()) == []


def test_no_check_is_said(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bundle, "check", lambda *_: pytest.fail("checked"))
    out = tmp_path / "out"
    code, said, error = called(capsys, "deploy", tiny.path, "-o", out, "--for", "bundle", "--no-check")
    assert (code, said.strip()) == (0, str(out))
    assert "Not checked: it was switched off with --no-check." in error
    assert "python predict.py IMAGE" in error
    assert manifest.read(out).check.not_done.startswith("it was switched off")


def test_what_was_checked_is_said(tiny, tmp_path, capsys, monkeypatch):
    checks = Checks(by="a test", images=3, difference=1e-6, agreement=1.0, proves=("It answers.",))
    monkeypatch.setattr(bundle, "check", lambda *_: checks)
    code, _, error = called(capsys, "deploy", tiny.path, "-o", tmp_path / "out", "--for", "bundle", "--check")
    assert code == 0
    assert "a test" in error
    assert "It answers." in error
    assert manifest.read(tmp_path / "out").check == checks


def test_an_engine_without_a_gpu_is_written_and_not_checked(tmp_path):
    pytest.importorskip("cuda.bindings")
    made = tlopt.deploy(write_engine(tmp_path / "engine"), tmp_path / "out", for_="bundle")
    said = made.manifest
    assert said.check.not_done
    assert said.max_batch == 4
    engine = said.artifacts[0].engine
    assert (engine.flavour, engine.version, engine.targets) == ("tensorrt", "10.13.2.6", ("sm89",))
    assert (made.path / "requirements.txt").read_text().splitlines()[0] == "tensorrt==10.13.2.6"
    assert json.loads((made.path / "selfcheck/expected.json").read_text())["logits"] is None
    assert json.loads((made.path / "network.json").read_text())["fixed_batch"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no deployment"),
        ("{", "cannot be used: it is not JSON"),
        ('{"what": "a deployment of tlopt", "schema": 2}', "has schema 2"),
        ('{"what": "something else"}', "does not say"),
        ('{"what": "a deployment of tlopt", "schema": 1}', "cannot be used"),
    ],
)
def test_a_folder_that_is_none_is_refused(tmp_path, text, message):
    if text:
        (tmp_path / "deploy.json").write_text(text)
    with pytest.raises(ArtifactError, match=message) as caught:
        manifest.read(tmp_path)
    assert "tlopt deploy" in caught.value.hint


def job_of(artifact, **changes):
    fields = {"target": "bundle", "name": "tiny", "backend": "onnxruntime", "input": "image", "max_batch": 8}
    return Job(artifacts=(artifact,), **{**fields, **changes})


def test_reference_images_are_of_several_kinds_and_the_same_each_time():
    files = reference.images(6)
    assert list(files)[:3] == ["reference-1.png", "reference-2.jpg", "reference-3.png"]
    assert files == reference.images(6)
    assert files != reference.images(6, seed=1)
    assert max(map(len, files.values())) < 200_000


def test_reference_answers_are_those_of_predict(tiny, tmp_path):
    files = reference.images()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    logits = reference.answers(job_of(tiny), files)
    said = list(tlopt.predict(tiny, tmp_path, top=1))
    assert [one.classes[0] for one in said] == [tiny.card.classes[i] for i in logits.argmax(1)]


def test_answers_that_differ_by_more_than_rounding_are_refused(tiny):
    job, wanted = job_of(tiny), np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    difference, agreement = reference.compared(job, wanted, wanted + 1e-5, "It")
    assert 0 < difference < 1e-4
    assert agreement == 1
    for wrong in (wanted[:, ::-1], wanted + 0.1, np.full_like(wanted, np.nan), wanted[:2]):
        with pytest.raises(CheckError, match="It answers"):
            reference.compared(job, wanted, wrong, "It")


def test_another_order_of_channels_is_more_than_rounding(tiny, tmp_path):
    from dataclasses import replace

    swapped = write_onnx(tmp_path / "bgr", preprocess=replace(tiny.card.preprocess, channels="bgr"))
    files = reference.images()
    with pytest.raises(CheckError):
        reference.compared(
            job_of(tiny), reference.answers(job_of(tiny), files), reference.answers(job_of(swapped), files), "It"
        )


def test_what_is_shown_fits_80_columns_and_its_commands_can_be_typed(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tlopt.deploy(tiny, "out", for_="openvino-server")
    shown = made.to_report().table(width=80)
    assert max(map(len, shown.splitlines())) <= 80
    assert made.manifest.how[0] in " ".join(shown.replace("\\\n", " ").split())


@pytest.mark.slow
def test_an_int8_network_answers_as_its_artifact_does(exported, tmp_path):
    made = tlopt.quantize(exported, tmp_path / "int8", for_="openvino")
    said = tlopt.deploy(made, tmp_path / "out", for_="openvino-server").manifest
    assert said.backend == "openvino"
    assert said.check.agreement == 1
    assert said.check.difference < 0.05


def test_an_engine_of_tensorrt_for_rtx_names_its_own_packages(tmp_path, monkeypatch):
    installed = {"onnxruntime-ep-nv-tensorrt-rtx-cu13": "0.5.0", "cuda-bindings": "13.5.0"}
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: installed.get(name) or version(name))
    engine = write_engine(tmp_path / "engine", flavour="rtx", version="1.7.1.116", targets=["sm80", "sm89"])
    made = tlopt.deploy(engine, tmp_path / "out", for_="bundle", check=False)
    assert (made.path / "requirements.txt").read_text().splitlines()[:3] == [
        "tensorrt-rtx-cu13-bindings==1.7.1.116", "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0", "cuda-bindings==13.5.0",
    ]  # fmt: skip
    settings = json.loads((made.path / "network.json").read_text())["settings"]
    assert (settings["flavour"], settings["targets"]) == ("rtx", ["sm80", "sm89"])
    dockerfile = (made.path / "Dockerfile").read_text()
    assert "model.engine" in dockerfile
    assert "RUN python predict.py" not in dockerfile  # there is no GPU while an image is built
