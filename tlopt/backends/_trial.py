"""Whether OpenVINO survives an int8 graph: tried in a process of its own, where a crash harms nothing.

OpenVINO 2026.4 ends the process in its AMX kernels where the layers of a small batch are tiny: GhostNet on images of
64 px, one or two at a time. Three at a time it runs. `python -m tlopt.backends._trial` is that process.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

from tlopt.environment import processor_flags
from tlopt.errors import StageError
from tlopt.process import children

_BATCHES = (1, 2)
_SECONDS = 300  # for one that hangs


def check(payload: Path, threads: int) -> None:
    """Run an int8 graph once for each small batch, if the processor is of the kind on which that may crash.

    Args:
        payload: The ONNX file.
        threads: Of the runner.

    Raises:
        StageError: The process that ran it was ended by a signal, or did not end.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if "amx_int8" not in processor_flags() or (limit and "AMX" not in limit and limit != "DEFAULT"):
        return
    if said := _tried(str(payload.resolve()), payload.stat().st_mtime_ns, threads):
        raise StageError(
            f"OpenVINO {said}.",
            hint="Use ONNX Runtime, or set ONEDNN_MAX_CPU_ISA=AVX512_CORE_FP16 before tlopt starts.",
        )


@functools.cache
def _tried(payload: str, changed_ns: int, threads: int) -> str:  # noqa: ARG001 - a file that changed is another one
    """Return what happened to the process that tried it, if it was ended by a signal or did not end; else nothing."""
    command = children.command("tlopt.backends._trial", payload, threads)
    try:
        done = subprocess.run(command, env=children.environment(), capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"hangs in this graph: the process that tried it did not end within {_SECONDS} seconds"
    if done.returncode >= 0:
        return ""
    return f"crashes in this graph: the process that tried it {children.ended(done.returncode)}"


def main(payload: str, threads: str) -> None:
    """Run the graph."""
    import numpy as np
    import openvino

    settings = {"INFERENCE_NUM_THREADS": int(threads), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(payload, "CPU", settings)
    taken = compiled.input(0)
    request = compiled.create_infer_request()
    shape = taken.get_partial_shape()
    rest = [length.get_length() if length.is_static else 1 for length in list(shape)[1:]]
    for batch in _BATCHES if shape[0].is_dynamic else (shape[0].get_length(),):
        request.infer({0: np.zeros((batch, *rest), taken.get_element_type().to_dtype())})


if __name__ == "__main__":
    main(*sys.argv[1:])
