from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from brightest import write_fixed

import tlopt
from tlopt import backends
from tlopt.artifact import Artifact, seal
from tlopt.backends import _trial, open_runner
from tlopt.backends import onnxruntime as onnxruntime_backend
from tlopt.backends import torch as torch_backend
from tlopt.errors import StageError
from tlopt.publishing import draft


def damaged(artifact: Artifact, folder) -> Artifact:
    """Return a sealed artifact whose payload is no ONNX file."""
    with draft(folder) as scratch:
        (scratch / "model.onnx").write_bytes(b"not a model")
        seal(scratch, artifact.card)
    return Artifact.load(folder)


def test_torch_gives_its_threads_back(tuned):
    before = torch.get_num_threads()
    with open_runner(tuned, "torch", threads=1) as runner:
        assert runner.conditions["threads"] == torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_graph_with_a_fixed_batch_has_no_logits_of_no_images(tmp_path, backend, batch):
    with open_runner(write_fixed(tmp_path / "fixed", batch), backend) as runner:
        logits = runner(np.zeros((0, 3, 16, 16), np.float32))
    assert (logits.shape, logits.dtype) == ((0, 5), np.float32)


def test_more_threads_than_cores_are_told_once(exported, monkeypatch, caplog):
    monkeypatch.setattr(backends, "cores", lambda: 3)
    for threads in (0, 3, 4, 4):
        open_runner(exported, "onnxruntime", threads=threads)
    assert caplog.messages == ["4 threads wait for each other on 3 cores. --threads 0 takes one per core."]


def test_torch_tells_the_memory_layout_that_a_network_works_in(tuned, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    viewing = tlopt.import_model(None, tmp_path / "net", model="odd_nets:viewing", classes=tmp_path / "names.txt")
    inputs = np.random.default_rng(0).standard_normal((2, *viewing.card.preprocess.input_shape), dtype=np.float32)
    with open_runner(viewing, "torch") as runner, open_runner(tuned, "torch") as other:
        assert runner(inputs).shape == (2, 2)
        assert runner.conditions["memory_format"] == "contiguous"
        assert other.conditions["memory_format"] == "channels_last"


def test_torch_in_bf16_stays_near_fp32(tuned):
    inputs = np.random.default_rng(0).standard_normal((2, *tuned.card.preprocess.input_shape), dtype=np.float32)
    with open_runner(tuned, "torch") as full, open_runner(tuned, "torch:cpu-bf16") as half:
        assert half.conditions["autocast"] == "bf16"
        # bf16 keeps 8 bits: 0.4 % a number, and logits of a few units.
        np.testing.assert_allclose(half(inputs), full(inputs), atol=0.2)


def test_onnxruntime_without_a_provider_says_what_to_install(exported):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(StageError, match="has no CUDAExecutionProvider here") as caught:
        open_runner(exported, "onnxruntime:cuda")
    assert caught.value.hint == "python -m pip install onnxruntime-gpu"


def test_onnxruntime_that_falls_back_is_an_error(exported, monkeypatch):
    # A provider that is listed but cannot be loaded: ONNX Runtime goes on with the processor.
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession",
        lambda model, options, **_: real(model, options, providers=["CPUExecutionProvider"]),
    )  # fmt: skip
    with pytest.raises(StageError, match="with CPUExecutionProvider instead of CUDAExecutionProvider"):
        open_runner(exported, "onnxruntime:cuda")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_payload_that_is_no_onnx_is_one_clear_error(backend, exported, tmp_path):
    with pytest.raises(StageError, match=r"cannot (open|compile) .*model\.onnx"):
        open_runner(damaged(exported, tmp_path / "bad"), backend)


def test_openvino_keeps_the_precision_on_the_card(exported, tmp_path):
    with open_runner(exported, "openvino") as runner:
        assert runner.conditions["inference_precision"] == "f32"
    with open_runner(exported, "openvino:cpu-throughput") as runner:
        assert runner.conditions["performance_hint"] == "throughput"


def test_openvino_without_a_device_names_those_it_finds(exported):
    if "NPU" in openvino.Core().available_devices:
        pytest.skip("this machine has an NPU")
    with pytest.raises(StageError, match="finds no NPU here; it finds CPU"):
        open_runner(exported, "openvino:npu")


def test_fp16_inputs_and_outputs_are_cast(exported, tmp_path):
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
                onnx.helper.make_node("Flatten", ["pooled"], ["logits"]),
            ],
            "half",
            [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT16, ["n", 3, 8, 8])],
            [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT16, ["n", 3])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )  # fmt: skip
    with draft(tmp_path / "half") as scratch:
        onnx.save(model, scratch / "model.onnx")
        seal(scratch, replace(exported.card, precision="fp16"))
    inputs = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    with open_runner(Artifact.load(tmp_path / "half"), "onnxruntime") as runner:
        logits = runner(inputs)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, inputs.mean((2, 3)), atol=2e-3)


def test_bound_inputs_give_the_same_logits_and_their_memory_is_kept(exported):
    with open_runner(exported, "onnxruntime") as runner:
        assert runner.conditions["io_binding"] is False  # binding is for GPUs; here its path runs on the processor
        random = np.random.default_rng(0)
        batches = [random.standard_normal((n, *exported.card.preprocess.input_shape), np.float32) for n in (2, 2, 3)]
        expected = [runner(batch) for batch in batches]
        runner._place = "cpu"
        found = [runner(batch) for batch in batches]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        kept = runner._value
        runner(batches[2])
        assert runner._value is kept


def test_bound_inputs_that_are_staged_give_the_same_logits(exported):
    class Staging:
        memory = np.zeros((8, *exported.card.preprocess.input_shape), np.float32)

        def put(self, inputs):
            self.memory[: len(inputs)] = inputs
            return self.memory[: len(inputs)]

        def close(self):
            self.memory[:] = np.nan

    random = np.random.default_rng(0)
    batches = [random.standard_normal((n, *exported.card.preprocess.input_shape), np.float32) for n in (2, 2, 3, 1)]
    with open_runner(exported, "onnxruntime") as runner:
        expected = [runner(batch) for batch in batches]
        runner._place, runner._staging = "cpu", Staging()
        found = [runner(batch) for batch in batches]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isnan(Staging.memory).all()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_with_a_fixed_batch_takes_any_number_of_images(exported, tmp_path, backend):
    model = onnx.load(exported.payload(".onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    del model.graph.value_info[:]
    with draft(tmp_path / "fixed") as scratch:
        onnx.save(model, scratch / "model.onnx")
        seal(scratch, replace(exported.card, details=replace(exported.card.onnx, fixed_batch=2)))
    fixed = Artifact.load(tmp_path / "fixed")
    inputs = np.random.default_rng(0).standard_normal((5, *exported.card.preprocess.input_shape), dtype=np.float32)
    with open_runner(exported, backend) as any_batch, open_runner(fixed, backend) as two:
        np.testing.assert_allclose(two(inputs), any_batch(inputs), atol=1e-4)
        np.testing.assert_allclose(two(inputs[:1]), any_batch(inputs[:1]), atol=1e-4)


def test_layers_of_a_gpu_are_not_timed_by_what_they_take_to_queue(exported):
    from tlopt.backends import onnxruntime

    with pytest.raises(StageError, match="does not report the time of layers on cuda"):
        onnxruntime.profile(exported, np.zeros((1, 3, 8, 8), np.float32), device="cuda")


@pytest.mark.slow
def test_a_compiled_network_that_stops_being_compiled_is_no_silent_matter():
    import torch._dynamo.config as config

    from tlopt.backends import torch as backend

    with config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):  # monkeypatch would hide them afterwards
        backend._compiled(torch.nn.Linear(2, 2))
        assert config.recompile_limit == 64
        assert config.fail_on_recompile_limit_hit


class OnProcessor:
    """torch, on a machine whose GPU is the processor."""

    cuda = SimpleNamespace(get_device_name=lambda: "NVIDIA L4", empty_cache=lambda: None)

    def __init__(self):
        self.compiled = []

    def __getattr__(self, name):
        return getattr(torch, name)

    def device(self, _name):
        return torch.device("cpu")

    def compile(self, module, **settings):
        self.compiled.append(settings)
        return module


@pytest.fixture
def gpu(monkeypatch):
    """A machine where torch finds a GPU."""
    double = OnProcessor()
    monkeypatch.setattr(torch_backend, "torch", double)
    monkeypatch.setattr(torch_backend, "problem", lambda _: "")
    return double


def test_torch_tries_kernels_on_a_gpu_and_leaves_the_switch_as_it_was(tuned, gpu, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    with open_runner(tuned, "torch:cuda"):
        assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.benchmark
    with open_runner(tuned, "torch:cpu"):
        assert not torch.backends.cudnn.benchmark


def test_torch_in_half_has_its_weights_in_fp16_once_and_for_all(tuned, gpu):
    inputs = np.random.default_rng(0).standard_normal((2, *tuned.card.preprocess.input_shape), dtype=np.float32)
    with open_runner(tuned, "torch:cuda-half") as half, open_runner(tuned, "torch:cpu") as full:
        assert {weight.dtype for weight in half._module.parameters()} == {torch.float16}
        assert half.conditions["half_weights"]
        assert half.conditions["autocast"] == ""
        # fp16 keeps 11 bits: 0.05 % a number, and logits of a few units.
        np.testing.assert_allclose(half(inputs), full(inputs), atol=0.03)


def test_torch_compiled_for_a_gpu_launches_graphs(tuned, gpu):
    with open_runner(tuned, "torch:cuda-half-compiled"):
        assert gpu.compiled == [{"dynamic": False, "mode": "reduce-overhead"}]


@pytest.mark.parametrize(("name", "kind"), [("torch:cuda", torch.float32), ("torch:cuda-half", torch.float16)])
def test_a_batch_goes_to_a_gpu_through_memory_that_is_kept(tuned, gpu, monkeypatch, name, kind):
    monkeypatch.setattr(torch_backend, "_STAGED", 1)
    made = []

    def empty(shape, *, dtype, pin_memory):
        assert pin_memory
        made.append(torch.empty(shape, dtype=dtype))
        return made[-1]

    gpu.empty = empty
    shape = tuned.card.preprocess.input_shape
    batches = [np.random.default_rng(n).standard_normal((n, *shape), dtype=np.float32) for n in (3, 2, 3, 5, 1)]
    with open_runner(tuned, name) as runner:
        for inputs in batches:
            moved = runner._moved(torch.from_numpy(inputs))
            assert moved.dtype == kind
            np.testing.assert_allclose(moved.float(), inputs, rtol=1e-3, atol=1e-4)
    assert [(len(held), held.dtype) for held in made] == [(3, kind), (5, kind)]


def test_a_small_batch_goes_to_a_gpu_as_it_is(tuned, gpu):
    gpu.empty = None
    inputs = torch.ones((1, *tuned.card.preprocess.input_shape))
    with open_runner(tuned, "torch:cuda") as runner:
        assert torch.equal(runner._moved(inputs), inputs)


def test_memory_that_a_copy_may_still_read_is_given_up_after_an_error(tuned, gpu):
    inputs = np.zeros((1, *tuned.card.preprocess.input_shape), np.float32)

    def broken(_batch):
        raise RuntimeError("out of memory")

    with open_runner(tuned, "torch:cuda") as runner:
        runner._module, runner._pinned = broken, torch.zeros(1)
        with pytest.raises(RuntimeError, match="out of memory"):
            runner(inputs)
        assert runner._pinned is None


@pytest.fixture
def cudnn(tmp_path, monkeypatch):
    """A folder of packages with a cuDNN, and what is loaded, in order."""
    library = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"")
    loaded = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.setattr(onnxruntime_backend.ctypes, "CDLL", lambda name, **_: loaded.append(name))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: loaded.append("preload_dlls"), raising=False)
    return str(library), loaded


def test_the_cudnn_that_torch_will_want_comes_before_any_other(exported, cudnn):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    library, loaded = cudnn
    with pytest.raises(StageError, match="has no CUDAExecutionProvider"):
        open_runner(exported, "onnxruntime:cuda")
    assert loaded == [library, "preload_dlls"]


def test_onnxruntime_keeps_what_it_finds_of_cuda_off_the_result(exported, monkeypatch, capsys):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    monkeypatch.setattr(
        onnxruntime, "preload_dlls", lambda: sys.stdout.write("Failed to load libcudart.so.13\n"), raising=False
    )
    with pytest.raises(StageError, match="has no CUDAExecutionProvider"):
        open_runner(exported, "onnxruntime:cuda")
    out, err = capsys.readouterr()
    assert out == ""
    assert "libcudart" in err


def test_onnxruntime_on_a_gpu_says_that_it_computes_quantized_graphs_in_float(exported, monkeypatch):
    real = onnxruntime_backend._session

    def on_processor(model, _device, *rest, **more):
        return real(model, "cpu", *rest, **more)

    monkeypatch.setattr(onnxruntime_backend, "_session", on_processor)
    with open_runner(exported, "onnxruntime:cuda") as gpu, open_runner(exported, "onnxruntime:cpu") as processor:
        assert gpu.conditions["integer_kernels"] is False
        assert gpu.conditions["io_binding"]
        assert "integer_kernels" not in processor.conditions


@pytest.fixture(scope="module")
def quantized(exported, tmp_path_factory):
    """Return the tiny network in int8 for OpenVINO."""
    return tlopt.quantize(exported, tmp_path_factory.mktemp("int8") / "int8", for_="openvino", samples=8)


@pytest.fixture
def amx(monkeypatch):
    monkeypatch.setattr(_trial, "processor_flags", lambda: frozenset({"amx_int8"}))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)


def test_a_graph_in_which_openvino_crashes_is_refused_in_words(quantized, amx, monkeypatch):
    crashes = [sys.executable, "-c", "import os; os.abort()"]
    monkeypatch.setattr(_trial.children, "command", lambda *_: crashes)
    _trial._tried.cache_clear()
    with pytest.raises(StageError, match=r"OpenVINO crashes in this graph: .* was ended by signal 6 \(aborted\)"):
        open_runner(quantized, "openvino")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")
    with open_runner(quantized, "openvino"):
        pass


def test_a_graph_in_which_openvino_hangs_is_refused_in_words(quantized, amx, monkeypatch):
    monkeypatch.setattr(_trial.children, "command", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(_trial, "_SECONDS", 0.05)
    _trial._tried.cache_clear()
    with pytest.raises(StageError, match=r"OpenVINO hangs in this graph: .* did not end within 0\.05 seconds"):
        open_runner(quantized, "openvino")


def test_torch_that_cannot_open_a_network_leaves_the_threads_as_they_were(tuned, monkeypatch):
    before = torch.get_num_threads()

    def fail(*_):
        raise StageError("no such network")

    monkeypatch.setattr(torch_backend, "open_model", fail)
    with pytest.raises(StageError, match="no such network"):
        open_runner(tuned, "torch", threads=before + 1)
    assert torch.get_num_threads() == before


def test_a_graph_in_which_openvino_does_not_crash_is_tried_and_runs(quantized, amx):
    _trial._tried.cache_clear()
    with open_runner(quantized, "openvino") as run:
        assert run(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 3)
    assert _trial._tried.cache_info().misses == 1
