"""What a file that another tool quantized is worth on each runtime."""

from __future__ import annotations

import onnx

from tlopt.graphs.precision import tensorrt_objection
from tlopt.graphs.view import WEIGHTED, View

_INTEGER = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm"})
_FUSED = ("Relu", "Clip")  # what may stand between a layer and the QuantizeLinear after it


def told(model: onnx.ModelProto) -> str:
    """Return in words what runtimes make of an int8 file, and what to do for another one.

    ONNX Runtime computes a convolution in integers only between DequantizeLinear and QuantizeLinear, OpenVINO after
    DequantizeLinear. Files for TensorRT lack the QuantizeLinear.
    """
    view = View(model)
    layers = [node for node in view.nodes if node.op_type in WEIGHTED | _INTEGER]
    read = [node for node in layers if node.op_type in _INTEGER or _reads_integers(view, node)]
    both = [node for node in read if node.op_type != "Conv" or _gives_integers(view, node)]
    refused = tensorrt_objection(model)
    return (
        f"It is in int8 already. Of {len(layers)} layers with weights ONNX Runtime computes {len(both)} in integers, "
        f"OpenVINO {len(read)}. TensorRT {f'does not take it: {refused}' if refused else 'takes it'}. For another "
        "runtime quantize the float file that it was made from: tlopt quantize ARTIFACT --for RUNTIME."
    )


def _reads_integers(view: View, node: onnx.NodeProto) -> bool:
    makers = [view.producer.get(name) for name in node.input[:2]]
    return all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)


def _gives_integers(view: View, node: onnx.NodeProto) -> bool:
    tensor = str(node.output[0])
    if (reader := view.only_reader(tensor)) is not None and reader.op_type in _FUSED:
        tensor = str(reader.output[0])
    readers = view.readers(tensor)
    return bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)
