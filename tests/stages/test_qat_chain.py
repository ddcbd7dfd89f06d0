"""From tlopt qat to an int8 file: the scales that were trained are the ones that ship."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from interruptions import interrupt_after
from onnx import numpy_helper

import tlopt
import tlopt.stages.quantize
from tlopt import backends, progress, verdict
from tlopt.cli import main
from tlopt.errors import ArtifactError, SettingError


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(verdict, "SECONDS", 0.01)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return {"epochs": 2, "batch": 8, "lr": 1e-3, "cache_dir": tmp_path_factory.mktemp("cache")}


@pytest.fixture(scope="module")
def trained(tuned, options, tmp_path_factory):
    """Take two seconds: what needs this is slow."""
    return tlopt.qat(tuned, tmp_path_factory.mktemp("qat") / "trained", **options)


@pytest.fixture(scope="module")
def exported_trained(trained, tmp_path_factory):
    return tlopt.export(trained, tmp_path_factory.mktemp("qat") / "fp32")


def constants(artifact):
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(artifact.payload(".onnx")).graph.initializer}


@pytest.mark.slow
def test_the_trained_scales_are_those_of_the_int8_graph(trained, exported_trained, tmp_path):
    made = tlopt.quantize(exported_trained, tmp_path / "int8")
    about = trained.card.torch.qat
    assert about.runtime == "onnxruntime"
    found = constants(made)
    for tensor, (scale, zero) in about.scales.items():
        assert found[f"{tensor}_scale"] == np.float32(scale)
        assert found[f"{tensor}_zero"] == zero
    # Weights go to the nearest of the integers that they were trained with.
    name = next(name for name in found if name.endswith("_weight_quantized"))
    real = found[name] * found[name.replace("_quantized", "_scale")].reshape(-1, *[1] * (found[name].ndim - 1))
    floats = [values for values in constants(exported_trained).values() if values.shape == real.shape]
    step = found[name.replace("_quantized", "_scale")].max()
    assert min(np.abs(values - real).max() for values in floats) <= 0.51 * step
    assert made.card.quantized.quantizer == "trained"
    assert made.card.quantized.measured.agreement >= 0.9


@pytest.mark.slow
def test_a_block_stays_float_where_asked_and_the_others_keep_their_scales(trained, exported_trained, tmp_path):
    made = tlopt.quantize(exported_trained, tmp_path / "int8", float_blocks=("first",))
    found, scales = constants(made), trained.card.torch.qat.scales
    kept = [tensor for tensor in scales if f"{tensor}_scale" in found]
    assert "images" not in kept
    assert 0 < len(kept) < len(scales)
    assert all(found[f"{tensor}_scale"] == np.float32(scales[tensor][0]) for tensor in kept)


@pytest.mark.slow
def test_the_metrics_are_those_of_the_rounded_network(trained, exported_trained, tmp_path):
    made = tlopt.quantize(exported_trained, tmp_path / "int8")
    rounded = trained.card.torch.metrics["validation"]["accuracy"]
    # Seven or eight photos: a tie that falls to the other side is one label at most.
    assert abs(made.card.quantized.measured.accuracy.result - rounded) <= 1 / 7


@pytest.mark.slow
def test_raw_bytes_in_front_take_the_scale_of_the_input(trained, tmp_path):
    exported = tlopt.export(trained, tmp_path / "fp32", input_="uint8")
    made = tlopt.quantize(exported, tmp_path / "int8")
    scale = trained.card.torch.qat.scales["images"][0]
    assert constants(made)["preprocess.normalized_scale"] == np.float32(scale)


@pytest.mark.slow
def test_another_runtime_than_the_one_trained_for_is_refused(exported_trained, tmp_path):
    with pytest.raises(SettingError, match="was trained to be quantized for onnxruntime, not for openvino"):
        tlopt.quantize(exported_trained, tmp_path / "int8", for_="openvino")
    wrong = "off" if exported_trained.card.onnx.qat.reduce_range else "on"
    with pytest.raises(SettingError, match=r"was trained with weights of (half|all) the int8 range"):
        tlopt.quantize(exported_trained, tmp_path / "int8", reduce_range=wrong)
    with pytest.raises(SettingError, match="equalization would change its trained weights"):
        tlopt.quantize(exported_trained, tmp_path / "int8", equalization=True)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_blocks_are_not_chosen_by_answers_that_saturate(tuned, options, tmp_path, monkeypatch):
    trained = tlopt.qat(tuned, tmp_path / "qat", **{**options, "epochs": 1}, reduce_range="off")
    exported = tlopt.export(trained, tmp_path / "fp32")
    monkeypatch.setattr(backends, "saturates", lambda _: True)
    with pytest.raises(SettingError, match="but the integer kernels of onnxruntime saturate"):
        tlopt.quantize(exported, tmp_path / "int8", max_drop=0.01)


@pytest.mark.slow
def test_training_in_float_again_and_pruning_drop_the_scales(trained, options, tmp_path):
    again = tlopt.finetune(trained, tmp_path / "again", **{**options, "epochs": 1})
    pruned = tlopt.prune(trained, tmp_path / "pruned", ratio=0, epochs=0, criterion="magnitude")
    assert again.card.torch.qat is None
    assert pruned.card.torch.qat is None


@pytest.mark.parametrize("name", ["method", "precision", "compile", "teacher_features"])
def test_what_does_not_go_with_it_is_no_setting(tuned, options, tmp_path, name):
    with pytest.raises(SettingError, match=f"qat has no setting '{name}'"):
        tlopt.qat(tuned, tmp_path / "out", **options, **{name: 1})


@pytest.mark.parametrize("former", [{"qat": True}, {"for": "tensorrt"}, {"reduce_range": "on"}])
def test_finetune_says_where_its_former_settings_are(tuned, tmp_path, former):
    with pytest.raises(SettingError, match="finetune has no setting") as caught:
        tlopt.finetune(tuned, tmp_path / "out", **former)
    assert "tlopt qat ARTIFACT" in caught.value.hint


@pytest.mark.parametrize("words", [["--qat"], ["--qat", "--for", "tensorrt"], ["--reduce-range=on"]])
def test_the_command_line_says_it_too(photos, tmp_path, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["finetune", str(photos), *words, "-o", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "tlopt qat ARTIFACT" in capsys.readouterr().err


@pytest.mark.slow
def test_the_lineage_has_flat_settings(trained):
    step = trained.card.lineage[-1]
    assert step.stage == "qat"
    assert {"for": "onnxruntime", "epochs": 2, "lr": 1e-3}.items() <= step.settings.items()
    assert not {"training", "cache", "precision"} & step.settings.keys()


def test_a_folder_of_images_has_to_be_trained_on_first(photos, options, tmp_path):
    with pytest.raises(ArtifactError, match="is not an artifact") as caught:
        tlopt.qat(photos, tmp_path / "out", **options)
    assert "tlopt finetune" in caught.value.hint


@pytest.mark.slow
def test_a_resumed_run_makes_the_same_scales(tuned, trained, options, tmp_path):
    token = progress.display.set(interrupt_after(7))
    try:
        with pytest.raises(KeyboardInterrupt):
            tlopt.qat(tuned, tmp_path / "out", **options)
    finally:
        progress.display.reset(token)
    other = "off" if trained.card.torch.qat.reduce_range else "on"
    for change in ({"for": "tensorrt"}, {"reduce_range": other}):
        with pytest.raises(SettingError, match="with another --for or --reduce-range"):
            tlopt.qat(tuned, tmp_path / "out", resume=True, **{**options, **change})
    resumed = tlopt.qat(tuned, tmp_path / "out", resume=True, **options)
    assert resumed.card.torch.qat == trained.card.torch.qat
    assert resumed.payload(".safetensors").read_bytes() == trained.payload(".safetensors").read_bytes()
