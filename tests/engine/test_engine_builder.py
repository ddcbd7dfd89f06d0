import contextlib
import re
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tlopt import progress
from tlopt.cards.details import Gpu
from tlopt.engine import flavour
from tlopt.engine.building import builder
from tlopt.engine.building.options import Options
from tlopt.engine.building.targets import Plan, plan
from tlopt.engine.messages import Messages
from tlopt.engine.running import opening
from tlopt.errors import ArtifactError, MissingLibraryError, SettingError, StageError

needs_rtx = pytest.mark.skipif(bool(flavour.problem("rtx")), reason=flavour.problem("rtx") or "-")

SHAPE = (3, 32, 32)


def convolutions(kind=TensorProto.INT8, *, outputs=("logits",), scale_shape=()):
    """Three quantized convolutions of 32 channels, wide enough that the builder keeps them quantized."""
    random = np.random.default_rng(0)
    tensors, nodes, name, channels = [], [], "images", 3
    for index in range(3):
        weight = random.standard_normal((32, channels, 3, 3)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"w{index}"))
        for source, part in ((name, "x"), (f"w{index}", "v")):
            scale, zero = f"{part}s{index}", f"{part}z{index}"
            tensors.append(numpy_helper.from_array(np.full(scale_shape, 0.02, np.float32), scale))
            tensors.append(helper.make_tensor(zero, kind, scale_shape, [0]))
            nodes.append(helper.make_node("QuantizeLinear", [source, scale, zero], [f"{part}q{index}"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{part}q{index}", scale, zero], [f"{part}d{index}"]))
        inputs = [f"xd{index}", f"vd{index}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{index}"], name=f"conv{index}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        name, channels = f"r{index}", 32
    tensors.append(numpy_helper.from_array(random.standard_normal((32, 4)).astype(np.float32), "head"))
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["p"]))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"]))
    nodes.append(helper.make_node("Gemm", ["f", "head"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.fixture
def saved(tmp_path):
    def save(model):
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return save


@needs_rtx
@pytest.mark.parametrize(("kind", "name"), [(TensorProto.INT8, "Int8"), (TensorProto.FLOAT8E4M3FN, "FP8")])
def test_quantized_convolutions_of_the_file_are_quantized_in_the_engine(saved, kind, name):
    engine = builder.build(
        saved(convolutions(kind)), plan(("sm89", "sm120")), Options(max_batch=8), shape=SHAPE, dtype="float32"
    )
    reads = {node: row["inputs"] for row in engine.layers.rows for node in row["onnx"] if row["type"] == "correlation"}
    assert [reads[f"conv{index}"] for index in range(3)] == [[name]] * 3


@needs_rtx
def test_a_scale_that_is_a_vector_of_one_element_leaves_the_engine_in_float(saved):
    """Why the quantizers write scalars; when this fails, the library has learned to read both."""
    file = saved(convolutions(scale_shape=(1,)))
    engine = builder.build(file, plan(("sm89",)), Options(), shape=SHAPE, dtype="float32")
    assert engine.layers.rows
    assert not any("Int8" in row["inputs"] for row in engine.layers.rows)


@needs_rtx
def test_fp8_in_the_file_is_refused_for_an_older_gpu_even_if_the_card_is_silent(saved):
    with pytest.raises(StageError, match=r"(?s)fp8.*Leave the target that it names out"):
        builder.build(
            saved(convolutions(TensorProto.FLOAT8E4M3FN)), plan(("sm86",)), Options(), shape=SHAPE, dtype="float32"
        )


@needs_rtx
def test_an_engine_for_several_gpus_is_hardly_bigger_than_for_one(saved):
    file = saved(convolutions())
    one, three = (
        len(builder.build(file, plan(targets), Options(), shape=SHAPE, dtype="float32").data)
        for targets in (("sm89",), ("sm80", "sm86", "sm89"))
    )
    assert three - one < 1000


@needs_rtx
def test_an_engine_has_its_own_layers_also_while_another_user_of_the_library_lives(saved):
    found = flavour.load("rtx")
    earlier = found.make("Builder", Messages(found.api))
    engine = builder.build(saved(convolutions()), plan(("sm89",)), Options(), shape=SHAPE, dtype="float32")
    assert len(engine.layers.rows) > 5
    del earlier


@needs_rtx
def test_a_file_with_weights_beside_it_is_built(tmp_path):
    onnx.save(
        convolutions(), tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=100
    )
    assert builder.build(tmp_path / "model.onnx", plan(("sm89",)), Options(), shape=SHAPE, dtype="float32").data


@needs_rtx
@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (convolutions(outputs=("logits", "f")), {}, "has 1 inputs and 2 outputs"),
        (convolutions(), {"dtype": "uint8"}, "is DataType.FLOAT; its card says uint8"),
        (convolutions(), {"shape": (3, 64, 64)}, r"has the shape \(-1, 3, 32, 32\)"),
    ],
)
def test_a_network_that_is_not_what_the_card_says_is_refused(saved, model, arguments, message):
    with pytest.raises(StageError, match=message):
        builder.build(saved(model), plan(("sm89",)), Options(), **{"shape": SHAPE, "dtype": "float32", **arguments})


@needs_rtx
def test_logits_of_a_type_that_numpy_lacks_are_refused(saved):
    model = convolutions()
    model.graph.node[-1].output[0] = "wide"
    model.graph.node.append(helper.make_node("Cast", ["wide"], ["logits"], to=TensorProto.BFLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    with pytest.raises(StageError, match=r"(?s)'logits' .* is DataType.BF16; logits are read as fp32 or fp16"):
        builder.build(saved(model), plan(("sm89",)), Options(), shape=SHAPE, dtype="float32")


def test_a_library_that_does_not_start_says_why():
    def broken(_logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    kind = flavour.Flavour(
        name="tensorrt", version="11.4", cuda="13", api=type("Api", (), {"Builder": broken, "ILogger": object})
    )
    with pytest.raises(StageError, match=r"(?s)TensorRT 11.4 does not start: .*nullptr.*tlopt doctor"):
        kind.make("Builder", Messages(kind.api))


@needs_rtx
def test_the_builders_phases_are_shown_as_progress(saved):
    seen = []

    @contextlib.contextmanager
    def display(label, total):
        seen.append((label, total))
        yield SimpleNamespace(advance=lambda *_: seen.append("step"))

    token = progress.display.set(display)
    try:
        builder.build(saved(convolutions()), plan(("sm89",)), Options(), shape=SHAPE, dtype="float32")
    finally:
        progress.display.reset(token)
    assert seen[0][0] == "building engine"
    assert "step" in seen


@needs_rtx
def test_an_interruption_stops_the_build(saved):
    @contextlib.contextmanager
    def display(_label, _total):
        def advance(*_):
            raise KeyboardInterrupt

        yield SimpleNamespace(advance=advance)

    token = progress.display.set(display)
    try:
        with pytest.raises(KeyboardInterrupt):
            builder.build(saved(convolutions()), plan(("sm89",)), Options(), shape=SHAPE, dtype="float32")
    finally:
        progress.display.reset(token)


@needs_rtx
def test_a_file_that_is_no_onnx_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(StageError, match=r"model.onnx is not a readable ONNX file"):
        builder.build(tmp_path / "model.onnx", plan(("sm89",)), Options(), shape=SHAPE, dtype="float32")


class Config:
    """Test double of `IBuilderConfig`'s timing cache; one cache is refused as another GPU's."""

    def __init__(self):
        self.cache = None

    def create_timing_cache(self, content):
        return SimpleNamespace(content=content, serialize=lambda: content + b"+")

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        if cache.content == b"foreign":
            return False
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


@pytest.fixture
def on_gpu():
    here = Gpu(name="NVIDIA L4", capability="sm89", driver_cuda="13.0")
    kind = flavour.Flavour(name="tensorrt", version="10.13.2.6", cuda="13", api=None)
    return Plan(flavour=kind, targets=("sm89",), gpu=here)


def test_the_timing_cache_is_kept_per_gpu_and_version_and_grows(on_gpu, tmp_path, caplog):
    file = builder._timing_cache_file(on_gpu, Options(timing_cache=tmp_path / "cache"))
    assert file.name == "tensorrt-10.13.2.6-sm89-NVIDIA_L4.timing"
    for expected in (b"+", b"++"):
        config = Config()
        builder._load_timing_cache(config, file)
        record = builder._save_timing_cache(config, file)
        assert file.read_bytes() == expected
    assert record.file == file.name
    file.write_bytes(b"foreign")
    builder._load_timing_cache(Config(), file)
    assert "belongs to another GPU or version" in caplog.text


def test_on_a_gpu_the_library_that_times_takes_every_option(on_gpu, tmp_path):
    builder.check(on_gpu, Options(timing_cache=tmp_path, refit=True, strip_weights=True))
    builder.check(on_gpu, Options(timing_cache=tmp_path, version_compatible=True))
    with pytest.raises(SettingError, match="min <= opt <= max"):
        builder.check(on_gpu, Options(min_batch=9, opt_batch=8))


@pytest.mark.parametrize("option", ["refit", "strip_weights"])
def test_a_version_compatible_engine_keeps_its_weights(on_gpu, option):
    with pytest.raises(SettingError, match="lean runtime in it cannot refit"):
        builder.check(on_gpu, Options(version_compatible=True, **{option: True}))


@pytest.mark.parametrize(("version", "warned"), [("11.2.9", False), ("11.3.0", True), ("12.0", True)])
def test_a_refittable_engine_of_a_version_that_may_lose_a_bias_is_warned_of(on_gpu, caplog, version, warned):
    plan = replace(on_gpu, flavour=replace(on_gpu.flavour, version=version))
    builder.check(plan, Options(refit=True))
    assert ("lose the bias" in caplog.text) == warned
    caplog.clear()
    builder.check(plan, Options(strip_weights=True))
    assert not caplog.text


@pytest.mark.parametrize("inspects", [True, False])
def test_an_engine_without_an_inspector_has_the_layers_of_the_builders_log(on_gpu, caplog, inspects):
    inspector = SimpleNamespace(get_engine_information=lambda _: '{"Layers": ["from the inspector"]}')
    opened = SimpleNamespace(create_engine_inspector=lambda: inspector if inspects else None)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _: opened)
    api = SimpleNamespace(Runtime=lambda _: runtime, LayerInformationFormat=SimpleNamespace(JSON=0))
    log = "Name: logged, LayerType: kgen, Inputs: [], Outputs: [], TacticName: , StreamId: 0, Metadata: "
    messages = SimpleNamespace(logger=None, layers=log)
    plan = replace(on_gpu, flavour=replace(on_gpu.flavour, api=api))
    found = builder._inspect(api, b"", plan, Options(version_compatible=True), messages)
    assert [row["name"] for row in found.rows] == ["from the inspector" if inspects else "logged"]
    assert ("gives no inspector" in caplog.text) != inspects
    assert runtime.engine_host_code_allowed


def test_an_engine_that_the_library_cannot_open_again_is_no_engine(on_gpu):
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _: None)
    plan = replace(on_gpu, flavour=replace(on_gpu.flavour, api=SimpleNamespace(Runtime=lambda _: runtime)))
    messages = SimpleNamespace(logger=None, layers="", last=lambda: "out of memory")
    with pytest.raises(StageError, match=r"cannot open the engine it has just built: out of memory"):
        builder._inspect(plan.flavour.api, b"", plan, Options(), messages)


def test_a_library_too_old_is_refused_with_the_command_that_upgrades(monkeypatch):
    monkeypatch.setattr(flavour.registry, "require", lambda _: SimpleNamespace(__version__="10.3.0"))
    flavour.load.cache_clear()
    with pytest.raises(
        MissingLibraryError, match=r"(?s)10.3.0 is too old; tlopt needs 10.12.*--upgrade 'tlopt\[gpu\]'"
    ):
        flavour.load("tensorrt")
    flavour.load.cache_clear()


def test_bindings_without_their_libraries_name_the_extra(monkeypatch):
    real = flavour.importlib.util.find_spec
    found = {"tensorrt_rtx": None, "tensorrt_rtx_libs": None, "onnxruntime_ep_nv_tensorrt_rtx": None}
    found["tensorrt_rtx_bindings"] = SimpleNamespace(origin="/x/__init__.py")
    monkeypatch.setattr(flavour.importlib.util, "find_spec", lambda name: found[name] if name in found else real(name))
    with pytest.raises(MissingLibraryError, match=r"(?s)without the libraries it binds.*tlopt\[rtx\]"):
        flavour._import_rtx()


# What only a GPU can execute: its names are held against the real library, which has the same
# classes in both kinds. RTX lacks none of them.
USED = {
    "": "Builder OnnxParser OnnxParserRefitter Refitter Runtime ILogger IProgressMonitor nptype float32 uint8",
    "Runtime": "deserialize_cuda_engine engine_host_code_allowed get_engine_validity",
    "ICudaEngine": "create_execution_context create_runtime_config create_engine_inspector get_tensor_dtype refittable",
    "IExecutionContext": "set_input_shape set_tensor_address execute_async_v3",
    "EngineInspector": "get_engine_information",
    "LayerInformationFormat": "JSON",
    "Refitter": "refit_cuda_engine",
    "OnnxParserRefitter": "refit_from_file",
    "ITimingCache": "serialize",
    "IBuilderConfig": "create_timing_cache set_timing_cache get_timing_cache hardware_compatibility_level",
    "BuilderFlag": "SPARSE_WEIGHTS REFIT STRIP_PLAN VERSION_COMPATIBLE",
    "HardwareCompatibilityLevel": "AMPERE_PLUS SAME_COMPUTE_CAPABILITY",
    "IRuntimeConfig": "dynamic_shapes_kernel_specialization_strategy cuda_graph_strategy "
    "create_runtime_cache set_runtime_cache",
    "IRuntimeCache": "serialize deserialize",
    "DynamicShapesKernelSpecializationStrategy": "EAGER",
    "CudaGraphStrategy": "WHOLE_GRAPH_CAPTURE",
    "EngineValidity": "INVALID",
    "ComputeCapability": "CURRENT SM80 SM86 SM89 SM120",
}


@needs_rtx
@pytest.mark.parametrize("owner", USED)
def test_every_name_used_on_a_gpu_exists_in_the_library(owner):
    api = flavour.load("rtx").api
    assert set(USED[owner].split()) <= set(dir(getattr(api, owner) if owner else api))


# What the lean runtime has to have: the names of running an engine, those of the other kind left out.
RUNS = {
    "": "Runtime ILogger IProfiler nptype float32 uint8",
    "Runtime": "deserialize_cuda_engine engine_host_code_allowed",
    "ICudaEngine": "create_execution_context get_tensor_dtype",
    "IExecutionContext": "set_input_shape set_tensor_address execute_async_v3 profiler enqueue_emits_profile",
}


@pytest.mark.skipif(find_spec("tensorrt_lean") is None, reason="TensorRT's lean runtime is not installed")
def test_every_name_that_runs_an_engine_exists_in_the_lean_runtime():
    found = flavour.load("tensorrt", to_run=True)
    assert found.lean or found.version_parts >= (10, 12)
    for owner, names in RUNS.items():
        assert set(names.split()) <= set(dir(getattr(found.api, owner) if owner else found.api))


@needs_rtx
@pytest.mark.parametrize(
    ("owner", "method", "signature"),
    [
        ("IExecutionContext", "set_input_shape", r"name: str, shape: tuple\) -> bool"),
        ("IExecutionContext", "set_tensor_address", r"name: str, memory: \S+\) -> bool"),
        ("IExecutionContext", "execute_async_v3", r"stream_handle: \S+\) -> bool"),
        ("IBuilderConfig", "set_timing_cache", r"cache: \S+, ignore_mismatch: bool\) -> bool"),
        ("Runtime", "get_engine_validity", r"buffer: \S+\) -> tuple"),
        ("IRuntimeConfig", "set_runtime_cache", r"cache: \S+( = None)?\) -> bool"),
        ("IRuntimeConfig", "create_runtime_cache", r"\) -> \S*IRuntimeCache"),
        ("IRuntimeCache", "deserialize", r"blob: \S+\) -> bool"),
        ("IRuntimeCache", "serialize", r"\) -> \S*IHostMemory"),
        ("OnnxParserRefitter", "__init__", r"refitter: \S+, logger: \S+\) -> None"),
    ],
)
def test_what_runs_only_on_a_gpu_is_called_as_the_library_declares_it(owner, method, signature):
    declared = getattr(getattr(flavour.load("rtx").api, owner), method).__doc__
    assert re.search(signature, declared)


@needs_rtx
def test_the_library_itself_judges_an_engines_header_before_it_is_opened(tmp_path):
    found = flavour.load("rtx")
    runtime = found.api.Runtime(Messages(found.api).logger)
    about = SimpleNamespace(flavour="rtx", onnx=SimpleNamespace(path="../onnx/m.onnx"))
    artifact = SimpleNamespace(
        path=tmp_path / "engine",
        card=SimpleNamespace(engine=about),
    )
    here = Gpu(name="NVIDIA L4", capability="sm89", driver_cuda="13.0")
    with pytest.raises(ArtifactError, match=r"(?s)cannot run here: malformed engine.*--flavour rtx --target sm89"):
        opening._refuse_invalid(runtime, found.api, b"no engine", artifact, here)
