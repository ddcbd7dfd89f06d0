"""The one door to ONNX Runtime: every session of tlopt is opened here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlopt.environment import cores
from tlopt.errors import ArtifactError
from tlopt.process import temporary
from tlopt.registry import require

if TYPE_CHECKING:
    import onnx

CPU = ("CPUExecutionProvider",)
# Else it prints on stdout what went wrong, and tries once more with the processor alone.
_ONCE = {"enable_fallback": 0}
# What ONNX Runtime (1.32) does wrong where values are rounded to other types than 8- and 16-bit integers, such as E4M3:
# it drops a Relu, though the type has negative numbers, and fails at a Clip. Without these, the graph runs as it is.
_WITHOUT = ("optimization.disable_specified_optimizers", "ClipQuantRewrite;ReluQuantRewrite")

_NO_KERNEL = re.compile(r"Could not find an implementation for (\w+)")


def open_session(
    model: onnx.ModelProto | bytes | Path,
    *,
    threads: int = 0,
    providers: Sequence[str] = CPU,
    entries: Mapping[str, str] | None = None,
    optimize: bool = True,
    arena: bool = True,
    profile: str = "",
    other_types: bool | None = None,
) -> Any:
    """Open a quiet session that leaves the cores alone between its runs.

    Args:
        model: A graph, its bytes, or its file.
        threads: That a run takes; 0 for one per core that this process may use.
        providers: Execution providers in order of preference.
        entries: More entries of the session's configuration.
        optimize: Let ONNX Runtime optimize the graph; without, every tensor of it exists.
        arena: Keep memory for the next run; without, the most that a run took is given back.
        profile: Start of the path of a profile to write; none if empty.
        other_types: Whether it rounds values to other types than 8- and 16-bit integers; found out if None.

    Raises:
        MissingLibraryError: ONNX Runtime is not installed.
        ArtifactError: The graph computes in float64 what ONNX Runtime computes in float32 only.
    """
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    # ONNX Runtime's own choice counts the host's cores, past a container's quota.
    options.intra_op_num_threads = threads or cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its messages go to stderr past every setting of ours; failures raise
    # Its threads would spin for up to hundreds of milliseconds on the cores that others work, or are timed, on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in (entries or {}).items():
        options.add_session_config_entry(name, value)
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = arena
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    if rounds_to_other_types(model) if other_types is None else other_types:
        options.add_session_config_entry(*_WITHOUT)
    try:
        return runtime.InferenceSession(_given(model), options, providers=list(providers), **_ONCE)
    except Exception as error:  # its exceptions share no base but Exception
        missing = _NO_KERNEL.search(str(error))
        if missing is None or not _has_float64(_loaded(model)):
            raise
        raise ArtifactError(
            f"The network computes in float64, and ONNX Runtime has no {missing[1]} in float64.",
            hint="Convert the network to float32, in torch with model.float(), and export it again.",
        ) from error


def rounds_to_other_types(model: onnx.ModelProto | bytes | Path) -> bool:
    """Whether a graph, its bytes or its file rounds values to other types than 8- and 16-bit integers."""
    from onnx import TensorProto

    model = _loaded(model)
    integers = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    rounding = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    named = {types[node.input[2]] for node in rounding if len(node.input) > 2 and node.input[2] in types}
    named |= {found.i for node in rounding for found in node.attribute if found.name == "output_dtype" and found.i}
    return bool(named - integers)


def _loaded(model: onnx.ModelProto | bytes | Path) -> onnx.ModelProto:
    """Return a graph; without the weights that a file keeps elsewhere."""
    import onnx

    if isinstance(model, bytes):
        return onnx.load_from_string(model)
    return onnx.load(model, load_external_data=False) if isinstance(model, Path) else model


def _has_float64(model: onnx.ModelProto) -> bool:
    from onnx import TensorProto

    types = {tensor.data_type for tensor in model.graph.initializer}
    return TensorProto.DOUBLE in types | {value.type.tensor_type.elem_type for value in model.graph.input}


def simplified(file: Path) -> onnx.ModelProto:
    """Return a graph as ONNX Runtime simplifies it for any machine, in standard operators.

    Casts to the same type go, and transposes that cancel; constants are computed.

    Raises:
        MissingLibraryError: ONNX Runtime is not installed.
    """
    import onnx

    runtime = require("onnxruntime")
    with temporary.folder() as folder:
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folder / "simple.onnx")
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        runtime.InferenceSession(str(file), options, providers=list(CPU), **_ONCE)
        model: onnx.ModelProto = onnx.load(options.optimized_model_filepath)
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def _given(model: Any) -> str | bytes:
    if isinstance(model, Path):
        return str(model)
    if isinstance(model, bytes):
        return model
    content: bytes = model.SerializeToString()
    return content
