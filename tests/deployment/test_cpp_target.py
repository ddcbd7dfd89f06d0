from dataclasses import replace

import PIL
import pytest
from cpp_programs import job
from tiny_engine import write_engine

from tlopt.artifact import Artifact
from tlopt.deployment.cpp import building
from tlopt.deployment.cpp.parameters import parameters
from tlopt.deployment.targets import cpp
from tlopt.errors import ArtifactError
from tlopt.preprocess import Preprocess


def test_the_project_is_whole_and_names_how_it_is_built(exported, tmp_path):
    made = cpp.write(job(exported, "openvino"), tmp_path)
    assert made.how[0] == "cmake -B build -DRUNTIME=openvino"
    found = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert {"CMakeLists.txt", "README.md", "model/model.onnx", "model/labels.txt", "src/main.cpp"} <= found
    assert {"src/runtimes/openvino.cpp", "src/runtimes/onnxruntime.cpp"} <= found
    assert "src/runtimes/tensorrt.cpp" not in found
    text = (tmp_path / "README.md").read_text()
    assert text.index("DRUNTIME=openvino") < text.index("DRUNTIME=onnxruntime")
    assert "tensorrt" not in text
    assert (tmp_path / "model" / "labels.txt").read_text().splitlines() == list(exported.card.classes)


def test_an_engine_has_the_runtime_of_its_kind_alone(tmp_path):
    artifact = write_engine(tmp_path / "engine", flavour="rtx", version="1.5.0.3")
    cpp.write(job(artifact, "tensorrt"), tmp_path / "out")
    found = {file.name for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert {"tensorrt.cpp", "model.engine"} <= found
    assert "openvino.cpp" not in found
    text = (tmp_path / "out" / "README.md").read_text()
    assert "-DTENSORRT=tensorrt_rtx" in text
    assert "TensorRT for RTX 1.5.0.3 and no other version" in text
    assert "batch 2\n" in (tmp_path / "out" / "model" / "parameters.txt").read_text()


@pytest.mark.parametrize(
    "other",
    [{"fit": "stretch"}, {"fit": "pad"}, {"width": 96}, {"channels": "grey", "mean": (0.5,), "std": (0.5,)}],
    ids=["stretch", "pad", "width", "grey"],
)
def test_other_inputs_than_squares_in_color_are_refused(other, exported):
    card = replace(exported.card, preprocess=replace(exported.card.preprocess, **other))
    with pytest.raises(ArtifactError, match="cuts squares in color"):
        cpp.examine(job(Artifact(path=exported.path, card=card), "openvino"))
    cpp.examine(job(exported, "openvino"))


def test_parameters_say_how_the_network_is_fed(exported):
    card = replace(
        exported.card,
        precision="fp16",
        preprocess=Preprocess(
            size=64, crop_ratio=0.9, layout="nhwc", channels="bgr", mean=(0, 0.5, 1), std=(1, 0.5, 1)
        ),
        details=replace(exported.card.onnx, answers="sigmoids", fixed_batch=3),
    )
    found = dict(
        line.split(" ", 1)
        for line in parameters(job(Artifact(path=exported.path, card=card), "openvino"), "model.onnx").splitlines()[1:]
    )
    assert found == {
        "model": "model.onnx", "answers": "sigmoids", "size": "64", "side": "71", "interpolation": "bicubic",
        "channels_last": "1", "bgr": "1", "takes_pixels": "0", "scale": "0.00392156886 0.00784313772 0.00392156886",
        "shift": "-0 -1 -1", "batch": "3", "keep_float32": "0", "integer_kernels": "1", "engine_code": "0",
        "columns_first_if_tall": str(int(int(PIL.__version__.partition(".")[0]) >= 13)),
    }  # fmt: skip


def test_without_cmake_the_reason_names_what_to_install(monkeypatch):
    monkeypatch.setattr(building.shutil, "which", lambda _: None)
    assert building.problem("openvino").startswith("CMake is not installed: apt-get install cmake")
