"""Trying out whether engines can be built here: a tiny network, really built."""

from __future__ import annotations

import time

from tlopt.engine.building import builder
from tlopt.engine.building.options import Options
from tlopt.engine.building.targets import AHEAD_OF_TIME, plan
from tlopt.engine.flavour import FlavourName
from tlopt.errors import TloptError
from tlopt.process import temporary

_SHAPE = (3, 8, 8)


def try_build(flavour: FlavourName) -> tuple[str, str]:
    """Build a convolution, with TensorRT for the GPU here, with TensorRT for RTX ahead of time.

    Returns:
        What was built, and why nothing was; one of them is empty.
    """
    try:
        chosen = plan(("current",) if flavour == "tensorrt" else AHEAD_OF_TIME, flavour=flavour)
        started = time.perf_counter()
        with temporary.folder("trial") as folder:
            file = folder / "trial.onnx"
            file.write_bytes(_network())
            engine = builder.build(file, chosen, Options(opt_batch=1, max_batch=1), shape=_SHAPE, dtype="float32")
    except TloptError as error:
        return "", str(error)
    seconds = time.perf_counter() - started
    targets = ", ".join(chosen.targets)
    return f"{chosen.flavour.title} built {len(engine.data) / 1e3:.0f} kB for {targets} in {seconds:.1f} s", ""


def _network() -> bytes:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weight"], ["mixed"]),
            helper.make_node("GlobalAveragePool", ["mixed"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ],
        "trial",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *_SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content
