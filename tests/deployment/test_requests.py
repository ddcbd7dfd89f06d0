"""What deploy refuses: one error each, before anything is written."""

from __future__ import annotations

import sys

import pytest
from brightest import write_onnx
from calling import called
from tiny_engine import write_engine

import tlopt
from tlopt import registry
from tlopt.cards.details import OnnxDetails, Quantized
from tlopt.deployment.targets import bundle, openvino_server
from tlopt.errors import ArtifactError, MissingLibraryError, OutputExistsError, PluginError, SettingError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_onnx(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def out(tmp_path):
    """A place for a deployment; nothing may be left there or beside it."""
    yield tmp_path / "empty" / "out"
    assert not (tmp_path / "empty").exists()


def engine(folder, **changes):
    """An engine of a network that takes pixels, for one kind of GPU."""
    return write_engine(folder, **changes)


def test_an_unknown_target(tiny, out):
    with pytest.raises((SettingError, PluginError), match="openvino-serve") as caught:
        tlopt.deploy(tiny, out, for_="openvino-serve")
    assert "openvino-server" in caught.value.hint
    assert caught.value.exit_code == 2


def test_no_artifact_and_one_that_is_missing(out):
    with pytest.raises(SettingError, match="at least one artifact"):
        tlopt.deploy([], out, for_="bundle")
    with pytest.raises(ArtifactError, match="There is no artifact at nowhere"):
        tlopt.deploy("nowhere", out, for_="bundle")


@pytest.mark.slow
def test_an_artifact_of_a_kind_that_the_target_does_not_serve(tuned, out):
    with pytest.raises(ArtifactError, match="it is of kind torch, and bundle takes onnx or tensorrt") as caught:
        tlopt.deploy(tuned, out, for_="bundle")
    assert "tlopt export" in caught.value.hint


def test_an_engine_for_a_server_that_runs_none(tmp_path, out):
    with pytest.raises(ArtifactError, match="it is of kind tensorrt, and openvino-server takes onnx") as caught:
        tlopt.deploy(engine(tmp_path / "engine"), out, for_="openvino-server")
    assert "onnx artifact" in caught.value.hint


def test_a_runtime_that_the_target_does_not_have(tiny, out):
    with pytest.raises(ArtifactError, match="openvino-server does not run an onnx artifact with 'onnxruntime'"):
        tlopt.deploy(tiny, out, for_="openvino-server", backend="onnxruntime")
    with pytest.raises(ArtifactError, match="with 'onnxruntim'") as caught:
        tlopt.deploy(tiny, out, for_="bundle", backend="onnxruntim")
    assert caught.value.hint == "Did you mean 'onnxruntime'?"


@pytest.mark.parametrize(("runtime", "target"), [("onnxruntime", "openvino-server"), ("tensorrt", "bundle")])
def test_a_graph_that_was_quantized_for_another_runtime(tmp_path, out, runtime, target):
    details = OnnxDetails(opset=18, quantized=Quantized(runtime=runtime, calibration_images=8))
    made = write_onnx(tmp_path / "int8", precision="int8", details=details)
    with pytest.raises(ArtifactError, match=rf"was quantized for {runtime}, and {target} runs") as caught:
        tlopt.deploy(made, out, for_=target)
    assert ("tlopt build" if runtime == "tensorrt" else "--for openvino") in caught.value.hint


@pytest.mark.parametrize(
    ("target", "backend"), [("bundle", "onnxruntime"), ("cpp", ""), ("openvino-server", "openvino")]
)
def test_a_graph_in_fp8_that_nothing_but_an_engine_computes_in(tmp_path, out, target, backend):
    details = OnnxDetails(opset=19, quantized=Quantized(runtime="tensorrt", calibration_images=8))
    made = write_onnx(tmp_path / "fp8", precision="fp8", details=details)
    with pytest.raises(ArtifactError, match="is in fp8") as caught:
        tlopt.deploy(made, out, for_=target, **({"backend": backend} if backend else {}))
    assert "tlopt build" in caught.value.hint


def test_several_artifacts_in_a_target_that_makes_one_model(tmp_path, tiny, out):
    engines = [engine(tmp_path / gpu, targets=[gpu]) for gpu in ("sm80", "sm89")]
    with pytest.raises(ArtifactError, match="bundle makes one model, and got 2 artifacts") as caught:
        tlopt.deploy(engines, out, for_="bundle")
    assert "each engine for itself" in caught.value.hint
    with pytest.raises(ArtifactError, match="bundle makes one model, and got 2 artifacts"):
        tlopt.deploy([tiny, tiny], out, for_="bundle")


@pytest.fixture
def several(monkeypatch):
    """A target that takes several engines."""
    monkeypatch.setattr(bundle, "SEVERAL", True)


@pytest.mark.usefixtures("several")
def test_engines_of_different_networks_and_twice_for_one_gpu(tmp_path, out):
    first = engine(tmp_path / "first")
    other = engine(tmp_path / "other", targets=["sm80"], onnx={"artifact": "1" * 64})
    with pytest.raises(ArtifactError, match=r"other is no engine of the network that .*first is of"):
        tlopt.deploy([first, other], out, for_="bundle")
    with pytest.raises(ArtifactError, match="are both for sm89"):
        tlopt.deploy([first, engine(tmp_path / "again")], out, for_="bundle")


@pytest.mark.parametrize("name", ["a/b", "../x", "a b", ".hidden", "-x", "ü", "x" * 64, "a\n"])
def test_a_name_that_a_server_refuses(tiny, out, name):
    with pytest.raises(SettingError, match="cannot be") as caught:
        tlopt.deploy(tiny, out, for_="bundle", name=name)
    assert "letters, digits" in caught.value.hint


def test_a_batch_over_that_of_the_engine_and_below_it(tmp_path, out):
    made = engine(tmp_path / "engine")
    with pytest.raises(SettingError, match=r"max_batch is 5, and the engine .* takes 2 to 4 images") as caught:
        tlopt.deploy(made, out, for_="bundle", max_batch=5)
    assert "Build it again" in caught.value.hint
    with pytest.raises(SettingError, match="max_batch is 1") as caught:
        tlopt.deploy(made, out, for_="bundle", max_batch=1)
    assert caught.value.hint == "Take at least 2."


def test_a_batch_other_than_that_of_the_graph(tmp_path, out):
    made = write_onnx(tmp_path / "fixed", details=OnnxDetails(opset=18, fixed_batch=4))
    with pytest.raises(SettingError, match=r"each run of .* takes exactly 4"):
        tlopt.deploy(made, out, for_="bundle", max_batch=8)


def test_an_input_that_the_target_or_the_engine_does_not_take(tmp_path, tiny, out, monkeypatch):
    with pytest.raises(SettingError, match="openvino-server does not take --input image"):
        tlopt.deploy(tiny, out, for_="openvino-server", input_="image")
    monkeypatch.setattr(bundle, "INPUTS", ("image", "pixels"))
    with pytest.raises(ArtifactError, match="takes normalized floats") as caught:
        tlopt.deploy(engine(tmp_path / "engine"), out, for_="bundle", input_="pixels")
    assert "--input uint8" in caught.value.hint


def test_a_setting_that_the_target_does_not_use(tiny, out):
    with pytest.raises(SettingError, match="bundle does not use --max-delay-ms") as caught:
        tlopt.deploy(tiny, out, for_="bundle", max_delay_ms=5)
    assert caught.value.hint == "It uses --max-batch."


def test_an_existing_folder_is_kept_unless_tlopt_made_it_and_is_told_to(tiny, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists already"):
        tlopt.deploy(tiny, out, for_="bundle")
    with pytest.raises(OutputExistsError, match=r"mine\.txt would be lost"):
        tlopt.deploy(tiny, out, for_="bundle", force=True)
    with pytest.raises(OutputExistsError, match="what this command reads"):
        tlopt.deploy(tiny, tiny.path, for_="bundle", force=True)
    assert (out / "mine.txt").read_text() == "mine"


def test_a_check_that_was_asked_for_and_cannot_be_done(tiny, out, monkeypatch):
    monkeypatch.setattr(bundle, "problem", lambda _: "there is no server. python -m pip install server")
    with pytest.raises(MissingLibraryError, match="cannot be checked here: there is no server"):
        tlopt.deploy(tiny, out, for_="bundle", check=True)


def test_a_library_that_is_missing_names_what_to_install(tiny, out, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingLibraryError, match="openvino") as caught:
        tlopt.deploy(tiny, out, for_="openvino-server")
    assert "tlopt[cpu]" in caught.value.hint


def test_an_engine_without_weights(tmp_path, out):
    made = engine(tmp_path / "engine", options={"strip_weights": True})
    with pytest.raises(ArtifactError, match="built without weights"):
        tlopt.deploy(made, out, for_="bundle")


def test_a_failing_target_leaves_nothing(tiny, out, monkeypatch):
    def fail(job, folder):
        (folder / "half").touch()
        raise RuntimeError("out of luck")

    monkeypatch.setattr(openvino_server, "write", fail)
    with pytest.raises(tlopt.StageError, match="deploy failed: out of luck"):
        tlopt.deploy(tiny, out.parent.parent / "made" / "out", for_="openvino-server")
    assert list((out.parent.parent / "made").iterdir()) == []


def test_names_of_folders_are_made_to_fit(tmp_path):
    from tlopt.deployment import requests

    for folder, name in (("fp32", "fp32"), ("net (v2)", "net-v2"), ("Käfer", "K-fer"), ("---", "model")):
        assert requests.name("", write_onnx(tmp_path / folder)) == name


def test_targets_are_named_with_hyphens():
    assert {"bundle", "openvino-server"} <= set(registry.names("targets"))
    assert registry.load("targets", "openvino-server") is openvino_server


def test_the_command_line_says_one_error_with_its_code(tiny, out, capsys):
    code, said, error = called(capsys, "deploy", tiny.path, "-o", out, "--for", "bundle", "--name", "a b")
    assert (code, said) == (2, "")
    assert "Traceback" not in error
    code, _, error = called(capsys, "deploy", tiny.path, "-o", out, "--for", "bundle", "--instances", "2")
    assert code == 2
    assert "--instances" in error
