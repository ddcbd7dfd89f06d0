"""What runs in a process of its own on the stand-in for the driver; test_stand_in.py starts it."""

import ctypes
import gc
import json
import os
import threading
import warnings

import gpu_doubles
import numpy as np
import pytest
from gpu_doubles import API, GPU, EngineDouble, RuntimeDouble, batch, mean_logits
from stand_in import StandIn
from tiny_engine import write_engine

from tlopt import trusted
from tlopt.backends import open_runner, tensorrt
from tlopt.engine import driver as drivers
from tlopt.engine import flavour
from tlopt.engine import gpu as gpus
from tlopt.engine.driver import DriverError, graphs
from tlopt.engine.flavour import Flavour
from tlopt.engine.running import opening
from tlopt.errors import ArtifactError, SettingError, StageError
from tlopt.trusted import engines as trusted_engines

PACKAGE = os.environ["STAND_IN_PACKAGE"]
DEVICES = ("cuda", "cuda-graphs")
STAND_IN = StandIn()
# Every call between opening a runner and its last result that may fail.
MAKING = ("cuStreamCreate", "cuEventCreate", "cuMemHostAlloc", "cuMemAlloc")
RUNNING = (
    "cuEventRecord", "cuMemcpyHtoDAsync", "launch", "cuMemcpyDtoHAsync", "cuEventSynchronize", "cuEventElapsedTime",
)  # fmt: skip
CAPTURING = ("cuStreamBeginCapture", "cuGraphInstantiate", "cuGraphLaunch")


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch):
    """A machine with a GPU and TensorRT; whatever a test does, it gives everything back."""
    found = Flavour(name="tensorrt", version="10.13.2.6", cuda="13", api=API)
    monkeypatch.setattr(flavour, "load", lambda *_, **__: found)
    monkeypatch.setattr(drivers, "load", lambda: drivers.through(PACKAGE))
    RuntimeDouble.opened.clear()
    RuntimeDouble.host_code.clear()
    EngineDouble.broken = False
    STAND_IN.limit(1 << 30)
    yield
    gc.collect()
    assert {**STAND_IN.counts(), "retained": 1} == {"retained": 1}


@pytest.fixture
def engine(tmp_path):
    return lambda **changes: write_engine(tmp_path / "engine", **changes)


def checked(runner, inputs):
    np.testing.assert_allclose(runner(inputs), mean_logits(inputs), rtol=1e-5)


def test_the_package_of_the_command_line_is_in_use(engine):
    assert drivers.problem(PACKAGE) == ""
    assert gpus.gpu() == GPU
    assert gpus.pci_bus_id() == "0000:65:00.0"
    assert gpus.allocation_problem() == ""
    with open_runner(engine()) as runner:
        assert runner.conditions["driver"] == PACKAGE
        assert runner.conditions["library"] == "TensorRT 10.13.2.6"
        assert runner.conditions["gpu"] == GPU.name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 11])
def test_any_number_of_images_fits_whatever_the_batches_of_the_engine(engine, count, streams, device):
    with tensorrt.Runner(engine(), device=device, streams=streams) as runner:
        for seed in range(4):
            logits = runner(batch(count, seed))
            assert logits.shape == (count, 4)
            assert logits.dtype == np.float32
            np.testing.assert_allclose(logits, mean_logits(batch(count, seed)), rtol=1e-5)


def output(name, *shape):
    return {"name": name, "dtype": "float32", "shape": list(shape), "batched": True}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [1, 4, 5])
def test_every_output_of_a_network_that_is_no_classifier_is_given(engine, count, device):
    artifact = engine(task="any", outputs=[output("boxes", 2, 2), output("logits", 4)])
    with tensorrt.Runner(artifact, device=device) as runner:
        for seed in range(3):
            found = runner.outputs(batch(count, seed))
            assert [[values.shape for values in answer] for answer in found] == [[(2, 2), (4,)]] * count
            wanted = mean_logits(batch(count, seed))
            for place, answer in enumerate(found):
                for values in answer:
                    np.testing.assert_allclose(values.ravel(), wanted[place], rtol=1e-5)


def test_an_engine_whose_number_of_rows_varies_is_refused(engine):
    artifact = engine(task="any", outputs=[output("boxes", 0, 2), output("logits", 4)])
    with pytest.raises(StageError, match="the length of its output boxes varies"):
        open_runner(artifact)


@pytest.mark.parametrize("device", DEVICES)
def test_results_of_several_streams_come_in_order_and_outlive_the_buffers(engine, device):
    batches = [batch(4, index) for index in range(12)]
    with tensorrt.Runner(engine(), device=device, streams=2) as runner:
        found = list(runner.stream(batches))
    for inputs, logits in zip(batches, found, strict=True):
        np.testing.assert_allclose(logits, mean_logits(inputs), rtol=1e-5)


def test_a_batch_is_captured_when_it_comes_again_and_dropped_when_it_changes(engine):
    with tensorrt.Runner(engine(), device="cuda-graphs") as runner:
        checked(runner, batch(4, 1))
        assert "executables" not in STAND_IN.counts()
        for seed in range(3):
            checked(runner, batch(4, seed))
            assert STAND_IN.counts()["executables"] == 1
        checked(runner, batch(3))
        assert "executables" not in STAND_IN.counts()
        checked(runner, batch(3, 1))


@pytest.mark.parametrize("device", DEVICES)
def test_threads_with_a_runner_each_do_not_disturb_one_another(engine, device):
    artifact, wrong = engine(), []

    def work(index):
        try:
            with tensorrt.Runner(artifact, device=device) as runner:
                for step in range(20):
                    checked(runner, batch(1 + (step // 3) % 4, 50 * index + step))
        except BaseException as error:  # noqa: BLE001 -- shown below
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_another_thread_may_use_the_legacy_stream_while_a_graph_is_captured(engine):
    lane_events = []

    def other():
        with drivers.through(PACKAGE).current():
            event = ctypes.c_void_p()
            library = ctypes.CDLL("libcuda.so.1")
            library.cuEventCreate(ctypes.byref(event), 0)
            lane_events.append(library.cuEventRecord(event, None))
            library.cuEventDestroy_v2(event)

    with tensorrt.Runner(engine(), device="cuda-graphs") as runner:
        checked(runner, batch(4))
        lane, enqueue = runner.lanes[0], runner.lanes[0]._enqueue

        def disturbed():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            enqueue()

        lane._enqueue = disturbed
        checked(runner, batch(4, 1))
        del lane._enqueue
    assert lane_events == [0]


def test_gpu_times_are_read_after_the_batch_where_no_context_is_current(engine):
    with tensorrt.Runner(engine()) as runner:
        runner(batch(4))
        alone, with_copies = runner.gpu_times_ms()
    assert 0 <= alone <= with_copies


def test_a_batch_on_the_gpu_is_read_where_it_lies_whatever_ran_before(engine):
    inputs, driver = batch(3, 7), drivers.through(PACKAGE)
    with tensorrt.Runner(engine()) as runner:
        runner(batch(3))
        with driver.current():
            stream, locked = driver.stream(), driver.locked(inputs.shape, inputs.dtype)
            answer, source, target = driver.locked((3, 4), inputs.dtype), driver.memory(144), driver.memory(48)
            locked.array[:] = inputs
            driver.copy_in(source, locked.array, stream)
            stream.wait()
            runner.lanes[0].run_at(3, source.address, target.address)
            runner.lanes[0].settle()
            driver.copy_out(answer.array, target, stream)
            stream.wait()
            np.testing.assert_allclose(answer.array, mean_logits(inputs), rtol=1e-5)
            for held in (stream, locked, answer, source, target):
                held.free()
                held.free()
        checked(runner, batch(3, 1))


def test_an_address_that_tensorrt_does_not_take_is_told_in_words(engine):
    with (
        tensorrt.Runner(engine()) as runner,
        pytest.raises(StageError, match=r"(?s)address 0x1004; .*multiples of 256.*clone"),
    ):
        runner.lanes[0].run_at(3, 0x1004, 0x1000)


def test_a_batch_is_not_queued_where_no_context_is_current(engine):
    with tensorrt.Runner(engine()) as runner:
        with pytest.raises(DriverError, match=r"INVALID_CONTEXT|invalid device context"):
            runner.lanes[0].run_at(3, 0x1000, 0x2000)
        checked(runner, batch(3))


@pytest.mark.parametrize("device", DEVICES)
def test_a_refit_waits_and_is_seen_by_what_was_captured(engine, device, tmp_path):
    (tmp_path / "new.onnx").write_text("2.5")
    with tensorrt.Runner(engine(options={"refit": True}), device=device) as runner:
        for seed in range(3):
            checked(runner, batch(4, seed))
        with runner._current():
            runner.lanes[0].start(batch(4))
        runner.refit(tmp_path / "new.onnx")
        with runner._current():
            np.testing.assert_allclose(runner.lanes[0].finish(), mean_logits(batch(4)), rtol=1e-5)
        for seed in range(3):
            np.testing.assert_allclose(runner(batch(4, seed)), mean_logits(batch(4, seed), 2.5), rtol=1e-5)


def test_an_engine_built_without_refit_keeps_its_weights(engine, tmp_path):
    with tensorrt.Runner(engine()) as runner, pytest.raises(StageError, match=r"(?s)cannot be replaced.*--refit"):
        runner.refit(tmp_path / "new.onnx")


@pytest.fixture
def rtx(engine, monkeypatch):
    """An engine of TensorRT for RTX, and the library that opens it."""
    found = Flavour(name="rtx", version="1.7.1.116", cuda="13", api=API)
    monkeypatch.setattr(flavour, "load", lambda *_, **__: found)
    return engine(flavour="rtx", version="1.7.1.116")


def test_what_rtx_compiles_is_kept_from_one_process_to_the_next(rtx, tmp_path):
    file = tmp_path / "kept" / "runtime.cache"
    for contexts in (b"++", b"++++"):
        with tensorrt.Runner(rtx, streams=2, runtime_cache=file) as runner:
            checked(runner, batch(4))
        assert file.read_bytes().endswith(b"\n" + contexts)


def test_a_runtime_cache_of_another_gpu_is_begun_anew(rtx, tmp_path, caplog):
    file = tmp_path / "runtime.cache"
    with tensorrt.Runner(rtx, runtime_cache=file):
        pass
    file.write_bytes(file.read_bytes().removesuffix(b"+") + b"foreign")
    with tensorrt.Runner(rtx, runtime_cache=file) as runner:
        checked(runner, batch(4))
    assert "is of another GPU or version" in caplog.text
    assert file.read_bytes().endswith(b"\n+")


def test_a_file_that_is_no_runtime_cache_is_not_written_over(rtx, tmp_path):
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    with pytest.raises(SettingError, match=r"(?s)is no runtime cache that tlopt wrote.*Name a new file"):
        tensorrt.Runner(rtx, runtime_cache=thesis)
    assert thesis.read_text() == "years of work"


def test_a_runtime_cache_that_cannot_be_written_is_told_and_the_results_stand(rtx, tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    with tensorrt.Runner(rtx, runtime_cache=tmp_path / "file" / "runtime.cache") as runner:
        checked(runner, batch(4))
    assert "cannot be written" in caplog.text


def test_an_engine_of_the_other_kind_has_no_runtime_cache(engine, tmp_path):
    with pytest.raises(SettingError, match=r"(?s)compiles its kernels while it builds.*--timing-cache"):
        tensorrt.Runner(engine(), runtime_cache=tmp_path / "runtime.cache")
    assert not (tmp_path / "runtime.cache").exists()


@pytest.mark.parametrize("device", DEVICES)
def test_layers_are_timed_without_a_capture(engine, device):
    with tensorrt.Runner(engine(), device=device) as runner:
        times = runner.layer_times(batch(4), warm=3, runs=4)
        assert times == {"conv": 0.25, "pool": 0.5}
        assert "executables" not in STAND_IN.counts()


def test_the_profile_of_an_engine_names_its_layers_types(engine):
    artifact = engine()
    rows = [
        {"name": name, "type": kind, "tactic": "", "onnx": [], "inputs": [], "outputs": [], "weights": ""}
        for name, kind in (("conv", "Convolution"), ("never run", "Shuffle"))
    ]
    (artifact.path / "layers.json").write_text(json.dumps({"source": "inspector", "layers": rows}))
    assert tensorrt.profile(artifact, batch(3), runs=4) == [("conv", "Convolution", 0.25), ("pool", "?", 0.5)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("streams", [1, 2])
def test_a_resident_batch_is_run_back_to_back(engine, device, streams):
    with tensorrt.Runner(engine(), device=device, streams=streams) as runner:
        found = runner.resident(batch(4), runs=7)
        assert found.gpu_ms >= 0
        assert found.images_per_s > 0
        checked(runner, batch(3))


def test_everything_is_freed_when_opening_runs_out_of_memory(engine):
    STAND_IN.limit(150)
    with pytest.raises(StageError, match=r"(?s)CUDA cannot open .*out of memory.*smaller --max-batch"):
        tensorrt.Runner(engine())


@pytest.mark.parametrize("function", MAKING)
@pytest.mark.parametrize("after", range(8))
def test_everything_is_freed_whichever_call_fails_while_opening(engine, function, after):
    # Not for want of memory: pycuda (2026.1) collects garbage then and tries again.
    STAND_IN.fail(function, after=after, result=801)
    try:
        tensorrt.Runner(engine(), streams=2).close()
    except StageError:
        assert not STAND_IN.not_failed()
    else:
        assert STAND_IN.not_failed()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("function", [*RUNNING, *CAPTURING])
@pytest.mark.parametrize("after", range(3))
def test_a_call_that_fails_while_running_is_told_and_the_runner_goes_on(engine, device, function, after):
    with tensorrt.Runner(engine(), device=device) as runner:
        STAND_IN.fail(function, after=after, result=801)
        failed = 0
        for seed in range(6):
            try:
                logits = runner(batch(4, seed))
            except StageError:
                failed += 1
            else:
                np.testing.assert_allclose(logits, mean_logits(batch(4, seed)), rtol=1e-5)
        assert failed == (0 if STAND_IN.not_failed() else 1)


def test_a_capture_that_fails_is_told_and_the_next_run_is_an_eager_one(engine):
    with tensorrt.Runner(engine(), device="cuda-graphs") as runner:
        runner(batch(4))
        STAND_IN.fail("cuGraphInstantiate", result=801)
        with pytest.raises(StageError, match=r"(?s)captures no graph.*cuGraphInstantiate.*without CUDA graphs"):
            runner(batch(4))
        checked(runner, batch(4, 1))
        assert "executables" not in STAND_IN.counts()
        checked(runner, batch(4, 2))
        assert STAND_IN.counts()["executables"] == 1


@pytest.mark.parametrize("device", DEVICES)
def test_an_engine_that_fails_is_told_and_leaves_no_graph(engine, device):
    with tensorrt.Runner(engine(), device=device, streams=2) as runner:
        runner(batch(4))
        EngineDouble.broken = True
        with pytest.raises(StageError, match=r"TensorRT 10.13.2.6 refuses to run"):
            runner(batch(9))
        EngineDouble.broken = False
        assert "graphs" not in STAND_IN.counts()
        checked(runner, batch(4))


def test_stopping_half_way_leaves_no_batch_running(engine):
    with tensorrt.Runner(engine(), streams=2) as runner:
        running = runner.stream(batch(4) for _ in range(9))
        next(running)
        running.close()
        checked(runner, batch(3))


def test_whatever_comes_after_close_is_one_error(engine, tmp_path):
    with tensorrt.Runner(engine(), streams=2) as runner:
        running = runner.stream(batch(4) for _ in range(9))
        next(running)
    runner.close()
    for late in (
        lambda: runner(batch(4)),
        lambda: next(running),
        lambda: next(runner.stream([batch(4)])),
        lambda: runner.refit(tmp_path / "new.onnx"),
        lambda: runner.layer_times(batch(4), warm=1, runs=1),
        lambda: runner.resident(batch(4), runs=1),
        runner.gpu_times_ms,
    ):
        with pytest.raises(StageError, match=r"The runner of .* is closed"):
            late()
    running.close()


@pytest.mark.parametrize(
    "inputs", [batch(5), batch(2).astype(np.float64), batch(2)[:, :1]], ids=["too many", "type", "shape"]
)
def test_a_batch_that_does_not_fit_is_refused(engine, inputs):
    with tensorrt.Runner(engine()) as runner, pytest.raises(StageError, match=r"up to 4 inputs of \(3, 2, 2\)"):
        list(runner.stream([inputs]))


@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((-1, 3), []), ((-1, 5), []), ((-1, 4, 1), []), ((4,), []), ((-1, 4), ["boxes"]), ((-1, 4), ["masks"])],
    ids=["fewer", "more", "another axis", "no batch", "another length", "no such output"],
)
def test_an_engine_that_would_write_beyond_the_memory_of_its_answers_is_refused(engine, monkeypatch, shape, outputs):
    monkeypatch.setattr(EngineDouble, "get_tensor_shape", lambda _, name: shape if name == "logits" else (-1, 2, 2))
    described = [output(name, 2) for name in outputs]
    artifact = engine(task="any", outputs=[*described, output("logits", 4)]) if outputs else engine()
    with pytest.raises(ArtifactError, match=r"has no output|answers with \S+ of shape"):
        tensorrt.Runner(artifact)


def test_lengths_that_the_library_does_not_tell_are_those_of_the_card(engine, monkeypatch):
    monkeypatch.setattr(EngineDouble, "get_tensor_shape", lambda *_: (-1, -1))
    with tensorrt.Runner(engine()) as runner:
        checked(runner, batch(3))


def test_an_error_that_outlives_its_thread_and_its_runner_holds_nothing(engine):
    kept, artifact = [], engine()

    def work():
        try:
            with tensorrt.Runner(artifact) as runner:
                runner(batch(4))
                STAND_IN.fail("cuEventRecord", after=2, result=801)
                runner(batch(4))
        except StageError as error:
            kept.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(kept) == 1
    assert {**STAND_IN.counts(), "retained": 1} == {"retained": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.clear()
        gc.collect()


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": ["sm80"], "options": {"hardware_compatible": "ampere-plus"}},
        {"gpu": {"name": "NVIDIA Other"}, "options": {"hardware_compatible": "same-capability"}},
    ],
)
def test_an_engine_built_to_be_compatible_is_opened_and_runs_no_code_of_its_own(engine, changes):
    with tensorrt.Runner(engine(**changes)):
        assert RuntimeDouble.opened == [b"a plan"]
        assert RuntimeDouble.host_code == [False]


def test_the_code_in_a_version_compatible_engine_runs_on_a_persons_word_only(engine):
    artifact = engine(version="10.12.0.36", options={"version_compatible": True})
    digest = artifact.card.files["model.engine"]
    with pytest.raises(ArtifactError, match=rf"(?s)holds code that runs.*--trust engine:{digest}"):
        tensorrt.Runner(artifact)
    assert RuntimeDouble.opened == []
    with trusted.trusting([f"engine:{digest}"]), tensorrt.Runner(artifact):
        assert RuntimeDouble.host_code == [True]
    with pytest.raises(ArtifactError, match="holds code that runs"):
        tensorrt.Runner(artifact)


def test_whoever_built_a_version_compatible_engine_may_open_it(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    artifact = engine(version="10.12.0.36", options={"version_compatible": True})
    trusted_engines.remember(artifact.card.files["model.engine"], artifact.path / "model.engine")
    with tensorrt.Runner(artifact):
        assert RuntimeDouble.host_code == [True]


def test_a_stripped_engine_asks_for_the_file_with_its_weights(engine):
    with pytest.raises(ArtifactError, match=r"without weights, and .*onnx/model.onnx, which has them, cannot be read"):
        tensorrt.Runner(engine(options={"strip_weights": True}))


def test_an_engine_changed_after_loading_is_not_opened(engine):
    artifact = engine()
    (artifact.path / "model.engine").write_bytes(b"another")
    with pytest.raises(ArtifactError, match="was changed after the artifact was loaded"):
        tensorrt.Runner(artifact)
    assert RuntimeDouble.opened == []


def test_problem_says_nothing_where_everything_works():
    assert [tensorrt.problem(device) for device in DEVICES] == ["", ""]
    STAND_IN.limit(1000)
    assert "does not allocate" in tensorrt.problem()
    assert "out of memory" in gpus.allocation_problem()


class TestTheStandInItself:
    """It refuses what CUDA refuses; otherwise the tests above would show nothing."""

    def test_data_is_there_only_after_waiting(self):
        driver = drivers.through(PACKAGE)
        with driver.current():
            stream, memory = driver.stream(), driver.memory(64)
            source, target = (driver.locked((16,), np.dtype("float32")) for _ in range(2))
            source.array[:], target.array[:] = 3, 0
            driver.copy_in(memory, source.array, stream)
            driver.copy_out(target.array, memory, stream)
            assert target.array.sum() == 0
            stream.wait()
            assert target.array.sum() == 48
            for held in (source, target, memory, stream):
                held.free()

    def test_no_call_works_without_a_context(self):
        with pytest.raises(DriverError):
            drivers.through(PACKAGE).memory(64)
        number = ctypes.c_float()
        assert ctypes.CDLL("libcuda.so.1").cuEventElapsedTime(ctypes.byref(number), None, None) == 201

    @pytest.mark.parametrize("work", ["memory", "wait", "legacy"])
    def test_a_capture_is_spoilt_by_what_spoils_it(self, work):
        driver, library = drivers.through(PACKAGE), ctypes.CDLL("libcuda.so.1")
        with driver.current():
            stream, event, blocking = driver.stream(), driver.event(), ctypes.c_void_p()
            library.cuStreamCreate(ctypes.byref(blocking), 0)

            def spoil():
                if work == "memory":
                    driver.memory(64)
                elif work == "wait":
                    stream.wait()
                else:
                    moment = ctypes.c_void_p()
                    library.cuEventCreate(ctypes.byref(moment), 0)
                    refused = library.cuEventRecord(moment, None)
                    library.cuEventDestroy_v2(moment)
                    assert refused == 906  # CUDA_ERROR_STREAM_CAPTURE_IMPLICIT

            with pytest.raises(DriverError):
                graphs.Graph(graphs.load(), stream.handle if work != "legacy" else blocking.value, spoil)
            stream.wait()
            library.cuStreamDestroy_v2(blocking)
            event.free()
            stream.free()


def test_the_double_and_the_package_agree_on_the_gpu():
    assert opening.gpu() == gpu_doubles.GPU
