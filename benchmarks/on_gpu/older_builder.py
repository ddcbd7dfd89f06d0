"""Build an engine with TensorRT 8.6.

    PYTHON older_builder.py ONNX ENGINE PRECISION SIDE SMALLEST,USUAL,LARGEST

It is run by a Python 3.10 of its own: `pip install tensorrt==8.6.0` is the newest TensorRT whose libraries lie on PyPI
itself. It imports nothing of tlopt. Version 8 has no strongly typed networks, so int8 and fp16 are flags here.
"""

import sys
from pathlib import Path

import tensorrt as trt

_FLAGS = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8",)}


def main(onnx: str, engine: str, precision: str, side: str, batches: str) -> None:
    """Build one engine."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(onnx):
        raise SystemExit("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    for flag in _FLAGS[precision]:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    config.set_tactic_sources(
        1 << int(trt.TacticSource.EDGE_MASK_CONVOLUTIONS) | 1 << int(trt.TacticSource.JIT_CONVOLUTIONS)
    )
    # Newer versions let any number of contexts use the one profile; this one has to be told.
    config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    profile = builder.create_optimization_profile()
    name = network.get_input(0).name
    profile.set_shape(name, *((int(batch), 3, int(side), int(side)) for batch in batches.split(",")))
    config.add_optimization_profile(profile)
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise SystemExit("TensorRT builds no engine of it")
    Path(engine).write_bytes(data)
    print(trt.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
