"""The runner over the doubles of gpu_doubles.py: buffers, streams, graphs and refusals, without a GPU."""

import json

import numpy as np
import pytest
import tiny_engine
from gpu_doubles import API, ContextDouble, DriverDouble, EngineDouble, GraphDriverDouble, RuntimeDouble, mean_logits
from tiny_engine import write_engine

from tlopt import registry
from tlopt.backends import open_runner, tensorrt
from tlopt.cards.details import Gpu
from tlopt.engine import flavour, opening
from tlopt.engine import gpu as gpus
from tlopt.engine.flavour import Flavour
from tlopt.engine.profiler import LayerTimes
from tlopt.errors import ArtifactError, MissingLibraryError, StageError

GPU = Gpu(**tiny_engine.GPU)


def batch(count):
    return np.random.default_rng(count).standard_normal((count, 3, 2, 2)).astype(np.float32)


@pytest.fixture
def engine(tmp_path):
    return lambda **changes: write_engine(tmp_path / "engine", **changes)


@pytest.fixture
def driver(monkeypatch):
    """A machine with a GPU, pycuda and TensorRT, as far as the code under test can tell."""
    double = DriverDouble()
    found = Flavour(name="tensorrt", version="10.13.2.6", cuda="13", api=API)
    required = registry.require
    monkeypatch.setattr(registry, "require", lambda name: double if name == "pycuda.driver" else required(name))
    monkeypatch.setattr(flavour, "load", lambda _: found)
    monkeypatch.setattr(opening, "gpu", lambda: GPU)
    RuntimeDouble.opened.clear()
    EngineDouble.broken = False
    tensorrt._primary.cache_clear()
    yield double
    tensorrt._primary.cache_clear()


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 11])
@pytest.mark.parametrize("streams", [1, 3])
def test_any_number_of_images_fits_whatever_the_batches_of_the_engine(engine, driver, count, streams):
    with tensorrt.Runner(engine(), streams=streams) as runner:
        logits = runner(batch(count))
    assert logits.shape == (count, 4)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, mean_logits(batch(count)), rtol=1e-6)


def test_results_of_several_streams_come_in_order_and_outlive_the_buffers(engine, driver):
    batches = [batch(4) + index for index in range(7)]
    with tensorrt.Runner(engine(), streams=2) as runner:
        found = list(runner.stream(batches))
    for inputs, logits in zip(batches, found, strict=True):
        np.testing.assert_allclose(logits, mean_logits(inputs), rtol=1e-5)


def test_a_batch_on_the_gpu_is_read_where_it_lies_whatever_ran_before(engine, driver):
    elsewhere, target = batch(3), np.zeros((3, 4), np.float32)
    with tensorrt.Runner(engine()) as runner:
        runner(batch(3) + 1)
        runner.lanes[0].run_at(3, elsewhere.ctypes.data, target.ctypes.data)
        np.testing.assert_allclose(target, mean_logits(elsewhere), rtol=1e-6)
        own = runner(batch(3) + 1)
        np.testing.assert_allclose(own, mean_logits(batch(3) + 1), rtol=1e-6)


def test_everything_is_freed_on_exit_and_no_context_stays_current(engine, driver):
    with tensorrt.Runner(engine(), streams=3) as runner:
        runner(batch(4))
        assert len(driver.alive) == 12
        assert runner.lanes[0].gpu_ms > 0
    assert not driver.alive
    assert driver.depth == 0
    runner.close()


def test_everything_is_freed_when_opening_runs_out_of_memory(engine, driver):
    driver.largest = 150
    with pytest.raises(StageError, match=r"(?s)out of memory.*smaller --max-batch"):
        tensorrt.Runner(engine())
    assert not driver.alive
    assert driver.depth == 0


def test_everything_is_freed_when_the_engine_fails_while_running(engine, driver):
    with tensorrt.Runner(engine(), streams=2) as runner:
        EngineDouble.broken = True
        with pytest.raises(StageError, match=r"TensorRT 10.13.2.6 refuses to run"):
            runner(batch(9))
    assert not driver.alive
    assert driver.depth == 0


def test_stopping_half_way_leaves_no_batch_running(engine, driver):
    with tensorrt.Runner(engine(), streams=2) as runner:
        running = runner.stream(batch(4) for _ in range(9))
        next(running)
        running.close()
        np.testing.assert_allclose(runner(batch(3)), mean_logits(batch(3)), rtol=1e-6)


@pytest.mark.parametrize(
    "inputs", [batch(5), batch(2).astype(np.float64), batch(2)[:, :1]], ids=["too many", "type", "shape"]
)
def test_a_batch_that_does_not_fit_is_refused(engine, driver, inputs):
    with tensorrt.Runner(engine()) as runner, pytest.raises(StageError, match=r"up to 4 inputs of \(3, 2, 2\)"):
        list(runner.stream([inputs]))


def test_pycuda_of_another_cuda_is_told_with_the_command_that_compiles_it_anew(engine, driver, monkeypatch):
    def require(name):
        raise ImportError("undefined symbol: cuCtxCreate_v4")

    monkeypatch.setattr(registry, "require", require)
    with pytest.raises(MissingLibraryError, match=r"(?s)cuCtxCreate_v4.*--force-reinstall"):
        tensorrt.Runner(engine())


def test_the_conditions_name_library_gpu_and_streams(engine, driver):
    with open_runner(engine()) as runner:
        assert runner.name == "tensorrt:cuda"
        assert runner.conditions["library"] == "TensorRT 10.13.2.6"
        assert runner.conditions["gpu"] == GPU.name


@pytest.fixture
def graphs(driver, monkeypatch):
    double = GraphDriverDouble()
    required = registry.require
    monkeypatch.setattr(registry, "require", lambda name: double if name == "cuda.bindings.driver" else required(name))
    return double


def test_a_batch_is_captured_when_it_comes_again_and_dropped_when_it_changes(engine, graphs):
    capture = ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy", "cuGraphLaunch"]
    with tensorrt.Runner(engine(), device="cuda-graphs") as runner:
        runner(batch(4))
        assert graphs.log == []
        runner(batch(4))
        assert graphs.log == capture
        runner(batch(4))
        assert graphs.log == [*capture, "cuGraphLaunch"]
        runner(batch(3))
        assert graphs.log[-1] == "cuGraphExecDestroy"
        runner(batch(3))
    assert graphs.log.count("cuGraphExecDestroy") == graphs.log.count("cuGraphInstantiate") == 2


def test_a_capture_that_fails_is_ended_and_reported(engine, driver, graphs):
    graphs.status = 1
    with tensorrt.Runner(engine(), device="cuda-graphs") as runner:
        runner(batch(4))
        with pytest.raises(StageError, match=r"(?s)CUDA refuses cuGraphInstantiate.*without CUDA graphs"):
            runner(batch(4))
    assert graphs.log[-1] == "cuGraphDestroy"
    assert not driver.alive


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
def test_an_engine_of_another_version_or_gpu_is_refused_unopened(engine, driver, changes, message):
    with pytest.raises(ArtifactError, match=message) as caught:
        tensorrt.Runner(engine(**changes))
    assert caught.value.hint.startswith("tlopt build ")
    assert "/onnx -o " in caught.value.hint
    assert RuntimeDouble.opened == []


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "10.12.0.36", "options": {"version_compatible": True}},
        {"targets": ["sm80"], "options": {"hardware_compatible": "ampere-plus"}},
        {"gpu": {"name": "NVIDIA Other"}, "options": {"hardware_compatible": "same-capability"}},
    ],
)
def test_an_engine_built_to_be_compatible_is_opened(engine, driver, changes):
    with tensorrt.Runner(engine(**changes)):
        assert RuntimeDouble.opened == [b"a plan"]


def test_an_engine_changed_after_loading_is_not_opened(engine, driver):
    artifact = engine()
    (artifact.path / "model.engine").write_bytes(b"another")
    with pytest.raises(ArtifactError, match="was changed after the artifact was loaded"):
        tensorrt.Runner(artifact)
    assert RuntimeDouble.opened == []


def test_a_stripped_engine_asks_for_the_file_with_its_weights(engine, driver):
    with pytest.raises(ArtifactError, match=r"without weights, and .*onnx/model.onnx, which has them, cannot be read"):
        tensorrt.Runner(engine(options={"strip_weights": True}))
    assert driver.depth == 0


def test_an_engine_built_without_refit_keeps_its_weights(engine, driver, tmp_path):
    with (
        tensorrt.Runner(engine()) as runner,
        pytest.raises(StageError, match=r"(?s)keeps its weights.*--refit"),
    ):
        runner.refit(tmp_path / "new.onnx")


def test_pycuda_missing_names_the_extra(engine, driver, monkeypatch):
    def require(name):
        raise MissingLibraryError(f"{name} needs pycuda, which is not installed.", hint="tlopt[gpu]")

    monkeypatch.setattr(registry, "require", require)
    with pytest.raises(MissingLibraryError, match=r"tlopt\[gpu\]"):
        tensorrt.Runner(engine())


def test_the_librarys_own_profiler_tells_the_time_of_each_layer(engine, driver):
    artifact = engine()
    rows = [
        {"name": name, "type": kind, "tactic": "", "onnx": [], "inputs": [], "outputs": [], "weights": ""}
        for name, kind in (("conv", "Convolution"), ("never run", "Shuffle"))
    ]
    (artifact.path / "layers.json").write_text(json.dumps({"source": "inspector", "layers": rows}))
    assert tensorrt.profile(artifact, batch(3), runs=4) == [("conv", "Convolution", 0.25), ("pool", "?", 0.5)]
    assert not driver.alive


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
    with pytest.raises(MissingLibraryError, match=r"(?s)tensorrt.*tlopt\[gpu\]"):
        tensorrt.Runner(engine())


@pytest.mark.skipif(bool(flavour.problem("rtx")), reason="TensorRT for RTX is not installed")
@pytest.mark.parametrize(
    ("double", "real"),
    [(ContextDouble, "IExecutionContext"), (EngineDouble, "ICudaEngine"), (RuntimeDouble, "Runtime")],
)
def test_the_doubles_answer_only_to_names_of_the_real_library(double, real):
    names = {name for name, value in vars(double).items() if callable(value) and not name.startswith("__")}
    assert names <= set(dir(getattr(flavour.load("rtx").api, real)))


@pytest.mark.gpu
@pytest.mark.skipif(bool(tensorrt.problem()), reason=tensorrt.problem() or "-")
def test_the_primary_context_is_retained_and_given_back():
    tensorrt._primary().push()
    registry.require("pycuda.driver").Context.pop()
