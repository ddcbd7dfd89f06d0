"""What an engine is refused for before it is opened, and the doubles beside the real library.

What runs on a GPU is tested in tests/fake_cuda, on a stand-in for the driver.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from gpu_doubles import (
    API,
    GPU,
    ContextDouble,
    EngineDouble,
    RuntimeCacheDouble,
    RuntimeConfigDouble,
    RuntimeDouble,
)
from tiny_engine import write_engine

from tlopt import registry
from tlopt.backends import tensorrt
from tlopt.engine import driver as drivers
from tlopt.engine import flavour
from tlopt.engine import gpu as gpus
from tlopt.engine.flavour import Flavour
from tlopt.engine.layers import read_types
from tlopt.engine.running import opening
from tlopt.engine.running.profiler import LayerTimes
from tlopt.errors import ArtifactError, MissingLibraryError, StageError


@pytest.fixture
def engine(tmp_path):
    return lambda **changes: write_engine(tmp_path / "engine", **changes)


@pytest.fixture
def library(monkeypatch):
    """A machine with a GPU and TensorRT, as far as the code under test can tell."""
    found = Flavour(name="tensorrt", version="10.13.2.6", cuda="13", api=API)
    monkeypatch.setattr(flavour, "load", lambda *_, **__: found)
    monkeypatch.setattr(opening, "gpu", lambda: GPU)
    drivers.through.cache_clear()
    RuntimeDouble.opened.clear()
    yield
    drivers.through.cache_clear()


def test_a_driver_package_that_does_not_load_is_told_with_what_mends_it(engine, library, monkeypatch):
    def require(name):
        raise ImportError("undefined symbol: cuCtxCreate_v4")

    monkeypatch.setattr(registry, "require", require)
    with pytest.raises(MissingLibraryError, match=r"(?s)cuCtxCreate_v4.*--force-reinstall.*install cuda-bindings"):
        tensorrt.Runner(engine())


def test_cuda_bindings_are_taken_where_pycuda_is_missing(monkeypatch):
    drivers.through.cache_clear()
    asked = []

    def require(name):
        asked.append(name)
        if name == "pycuda.driver":
            raise MissingLibraryError("pycuda.driver needs pycuda, which is not installed.")
        return

    monkeypatch.setattr(registry, "require", require)
    assert drivers.load().name == "cuda-bindings"
    assert asked == ["pycuda.driver", "cuda.bindings.driver"]
    drivers.through.cache_clear()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "10.12.0.36"}, r"built with version 10.12.0.36, this is TensorRT 10.13.2.6"),
        ({"targets": ["sm86"]}, r"built for sm86, this GPU is sm89 \(NVIDIA Test GPU\)"),
        ({"gpu": {"name": "NVIDIA Other"}}, "tuned on NVIDIA Other, this GPU is NVIDIA Test GPU"),
        ({"flavour": "rtx"}, "built with TensorRT for RTX, this is TensorRT 10.13.2.6"),
        (
            {"version": "10.14.1", "options": {"version_compatible": True}},
            "built with version 10.14.1, which TensorRT 10.13.2.6 does not open",
        ),
        ({"version": "11.0.0", "options": {"version_compatible": True}}, "which TensorRT 10.13.2.6 does not open"),
    ],
)
def test_an_engine_of_another_version_or_gpu_is_refused_unopened(engine, library, changes, message):
    with pytest.raises(ArtifactError, match=message) as caught:
        tensorrt.Runner(engine(**changes))
    assert caught.value.hint.startswith("tlopt build ")
    assert "/onnx -o " in caught.value.hint
    assert RuntimeDouble.opened == []


def test_pycuda_missing_names_the_extra(engine, library, monkeypatch):
    def require(name):
        raise MissingLibraryError(f"{name} needs pycuda, which is not installed.", hint="tlopt[gpu]")

    monkeypatch.setattr(registry, "require", require)
    with pytest.raises(MissingLibraryError, match=r"tlopt\[gpu\]"):
        tensorrt.Runner(engine())


def test_the_types_of_layers_are_read_from_the_listing(tmp_path):
    row = {"name": "conv", "type": "Convolution", "tactic": "", "onnx": [], "inputs": [], "weights": "", "outputs": []}
    (tmp_path / "layers.json").write_text(json.dumps({"source": "inspector", "layers": [row]}))
    assert read_types(tmp_path / "layers.json") == {"conv": "Convolution"}
    with pytest.raises(ArtifactError, match="is missing"):
        read_types(tmp_path / "nowhere.json")


@pytest.mark.skipif(bool(flavour.problem("rtx")), reason="TensorRT for RTX is not installed")
def test_the_real_library_takes_the_profiler_and_its_context_has_the_switches():
    api = flavour.load("rtx").api
    times = LayerTimes(api)
    assert isinstance(times.profiler, api.IProfiler)
    times.profiler.report_layer_time("conv", 0.25)
    times.profiler.report_layer_time("conv", 0.25)
    assert times.taken == {"conv": 0.5}
    assert {"profiler", "enqueue_emits_profile"} <= set(dir(api.IExecutionContext))


@pytest.mark.skipif(gpus.gpu() is not None, reason="there is a GPU here")
def test_without_a_gpu_the_runner_and_the_doctor_say_so(engine):
    assert "driver" in tensorrt.problem("cuda")
    if not flavour.problem("rtx"):
        with pytest.raises(StageError, match=r"(?s)runs on an NVIDIA GPU only\. There is no NVIDIA driver"):
            tensorrt.Runner(engine(flavour="rtx", version=flavour.load("rtx").version))


def test_an_engine_of_a_library_that_is_not_installed_is_refused_by_name(engine, monkeypatch):
    if not flavour.problem("tensorrt"):
        pytest.skip("TensorRT is installed")
    monkeypatch.setattr(opening, "gpu", lambda: GPU)
    monkeypatch.setattr(flavour, "_tensorrt", lambda **_: "tensorrt")  # nor is the lean runtime
    flavour.load.cache_clear()
    with pytest.raises(MissingLibraryError, match=r"(?s)tensorrt.*tlopt\[gpu\]"):
        tensorrt.Runner(engine())
    flavour.load.cache_clear()


@pytest.mark.skipif(bool(flavour.problem("rtx")), reason="TensorRT for RTX is not installed")
@pytest.mark.parametrize(
    ("double", "real"),
    [
        (ContextDouble, "IExecutionContext"),
        (EngineDouble, "ICudaEngine"),
        (RuntimeDouble, "Runtime"),
        (RuntimeConfigDouble, "IRuntimeConfig"),
        (RuntimeCacheDouble, "IRuntimeCache"),
    ],
)
def test_the_doubles_answer_only_to_names_of_the_real_library(double, real):
    names = {name for name, value in vars(double).items() if callable(value) and not name.startswith("__")}
    assert names <= set(dir(getattr(flavour.load("rtx").api, real)))


@pytest.fixture
def lean(monkeypatch):
    """A machine with a GPU, where of TensorRT only the lean runtime is installed."""
    found = Flavour(name="tensorrt", version="11.4.0.106", cuda="13", api=API, lean=True)
    monkeypatch.setattr(flavour, "load", lambda *_, **__: found)
    monkeypatch.setattr(opening, "gpu", lambda: GPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"TensorRT \(lean runtime\) 11.4.0.106 opens engines that were built with --version-compatible"),
        ({"version_compatible": True, "strip_weights": True}, "built with their weights, with --version-compatible"),
    ],
)
def test_the_lean_runtime_refuses_what_it_cannot_open(engine, lean, options, message):
    with pytest.raises(ArtifactError, match=message):
        opening.check(engine(options=options))


def test_the_lean_runtime_opens_older_engines_that_are_version_compatible(engine, lean):
    found, _ = opening.check(engine(options={"version_compatible": True}))
    assert found.lean


def test_the_lean_runtime_does_not_refit(engine, lean):
    opened = opening.Opened(flavour=flavour.load("tensorrt"), gpu=GPU, engine=None, runtime=None, messages=None)
    with pytest.raises(StageError, match="does not read ONNX files"):
        opening.refit(opened, Path("model.onnx"))


@pytest.mark.parametrize("name", ["tensorrt_lean", "tensorrt_lean_bindings"])
def test_the_lean_runtime_is_taken_to_run_and_never_to_build(monkeypatch, name):
    specs = {name: object()}
    monkeypatch.setattr(flavour.importlib.util, "find_spec", specs.get)
    monkeypatch.setattr(registry, "require", lambda module: SimpleNamespace(__version__="11.4.0.106", module=module))
    flavour.load.cache_clear()
    found = flavour.load("tensorrt", to_run=True)
    assert (found.lean, found.api.module) == (True, name)
    assert found.title == "TensorRT (lean runtime) 11.4.0.106"
    assert not flavour.load("tensorrt").lean
    flavour.load.cache_clear()
