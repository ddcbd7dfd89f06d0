"""Networks as graphs: the ONNX file of one, and the torch program that it was made from."""

from __future__ import annotations

import itertools
import warnings

import onnx
import torch
from torch import nn
from torch.export import ExportedProgram

from tlopt.networks import untraceable

INPUT, OUTPUT = "images", "logits"


def trace(model: nn.Module, size: int, opset: int) -> tuple[onnx.ModelProto, ExportedProgram]:
    """Return a network as ONNX, images -> logits, both with a dynamic batch axis, and as torch operators.

    Tensors of the ONNX graph have the names of the program's nodes.

    Args:
        model: Put into evaluation mode, on the processor.
        size: Side of the square input, pixels.
        opset: Version of the ONNX operators.

    Raises:
        StageError: torch can make no graph of it.
    """
    for module in model.modules():
        # Conv and batch norm fuse only in plain memory order; forward hooks would be traced.
        module.eval()
    example = torch.zeros(2, 3, size, size)
    return _exported(model, example, opset, free=True, names=(INPUT, (OUTPUT,)))


def trace_program(
    model: nn.Module, example: torch.Tensor, opset: int, *, free: bool, names: tuple[str, tuple[str, ...]]
) -> onnx.ModelProto:
    """Return a network of one input and any outputs as ONNX.

    Args:
        model: As it is to run, on the processor.
        example: Two images as the network takes them, or as many as it takes.
        opset: Version of the ONNX operators.
        free: Whether it takes any number of images.
        names: Of the input and the outputs.
    """
    return _exported(model, example, opset, free=free, names=names)[0]


def _exported(
    model: nn.Module, example: torch.Tensor, opset: int, *, free: bool, names: tuple[str, tuple[str, ...]]
) -> tuple[onnx.ModelProto, ExportedProgram]:
    with warnings.catch_warnings(), untraceable.in_words():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[names[0]],
            output_names=list(names[1]),
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=65535)},) if free else None,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    _strip(proto)
    assert program.exported_program is not None
    return proto, program.exported_program


def _strip(proto: onnx.ModelProto) -> None:
    """Drop what the exporter notes about Python source lines: machine paths have no place in a model."""
    del proto.metadata_props[:]
    proto.graph.doc_string = proto.doc_string = ""
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in itertools.chain(proto.graph.value_info, proto.graph.input, proto.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
