"""A torch network that computes as its integers will, while it trains."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from tlopt.errors import StageError
from tlopt.networks import layout
from tlopt.networks.tracing import INPUT, OUTPUT
from tlopt.quantization.qat.arithmetic import fold, round_activation, round_weight
from tlopt.quantization.qat.places import Places

_ATEN = torch.ops.aten
_CONVOLUTIONS = (_ATEN.conv2d.default, _ATEN.conv2d.padding, _ATEN.linear.default)
_SILU = (_ATEN.silu.default, _ATEN.silu_.default)
# Operator -> the position of its epsilon.
_NORMS = {_ATEN._native_batch_norm_legit_no_training.default: 6, _ATEN.batch_norm.default: 7}


class Steps(nn.Module):
    """The scales of all activations, as one parameter.

    Attributes:
        logarithm: float32 (scales,), natural logarithms.
    """

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places
        self.index: dict[str, int] = {}
        start: list[float] = []
        for name, place in places.tensors.items():
            if place.leader not in self.index:
                self.index[place.leader] = len(start)
                start.append(math.log(place.scale))
            self.index[name] = self.index[place.leader]
        self.logarithm = nn.Parameter(torch.tensor(start))

    def scales(self) -> dict[str, tuple[float, int]]:
        """Return tensor -> scale and zero point, as they are now."""
        now = self.logarithm.detach().cpu().exp().tolist()
        return {name: (now[self.index[name]], place.zero) for name, place in self.places.tensors.items()}


@contextmanager
def rounded(model: nn.Module, program: ExportedProgram, places: Places, name: str) -> Iterator[Steps]:
    """Let a network compute with rounded weights and activations for the length of the block.

    The network keeps its modules and parameters, which train as ever, and has the scales of its
    activations as one more. Its modules are not called: it computes what was traced, so dropout
    and the statistics of batch norms are those of evaluation.

    Args:
        model: The network.
        program: What `tlopt.networks.tracing.trace` made of it.
        places: What is rounded.
        name: Of the module that holds the scales.

    Raises:
        StageError: A place is not found in the program.
    """
    steps = Steps(places)
    graph = with_rounding(program, places, steps.index)
    signature = program.graph_signature
    tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {key: program.constants[value] for key, value in signature.inputs_to_lifted_tensor_constants.items()}
    order = [node.name for node in graph.graph.nodes if node.op == "placeholder"][1:]

    def forward(images: torch.Tensor) -> torch.Tensor:
        given: list[Any] = []
        for key in order:
            if key in tensors:
                # Looked up anew: a parametrization may stand before the parameter.
                given.append(functools.reduce(getattr, tensors[key].split("."), model))
            else:
                given.append(constants[key].to(images.device) if key in constants else images)
        logits: torch.Tensor = graph(steps.logarithm, *given)[0]
        return logits

    model.add_module(name, steps)
    model.forward = forward
    try:
        yield steps
    finally:
        del model.forward
        delattr(model, name)


def with_rounding(program: ExportedProgram, places: Places, index: Mapping[str, int]) -> fx.GraphModule:
    """Return the program with its rounding; the logarithms of the scales are its first input."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(program.graph, copies))
    nodes: dict[str, fx.Node] = {node.name: copy for node, copy in copies.items()}
    nodes[INPUT] = nodes[next(name for name in program.graph_signature.user_inputs if isinstance(name, str))]
    nodes[OUTPUT] = next(node for node in graph.nodes if node.op == "output").args[0][0]
    with graph.inserting_before(next(iter(graph.nodes))):
        logarithm = graph.placeholder("logarithm")
    _keep_layouts(graph)
    for name, gate in places.gates.items():
        if name in nodes and nodes[name].target in _SILU:
            nodes[gate], nodes[name] = _in_two_steps(graph, nodes[name])
    for name, limit in sorted(places.weights.items()):
        nodes[name] = _round_weight(graph, _need(nodes, name), name, limit)
    names = {node: name for name, node in nodes.items() if name in places.names}
    for name, place in places.tensors.items():
        node = _need(nodes, name)
        users = {user: _becomes(user, names) for user in node.users}
        if missing := sorted(place.readers - set(users.values())):
            raise _unknown(missing[0])
        with graph.inserting_after(node):
            made = graph.call_function(
                round_activation, (node, logarithm, index[name], place.zero, places.low, places.high)
            )
        for user, result in users.items():
            if result in place.readers:
                user.replace_input_with(node, made)
    graph.eliminate_dead_code()
    graph.lint()
    return fx.GraphModule(nn.Module(), graph)


def _keep_layouts(graph: fx.Graph) -> None:
    """Put the inputs of some convolutions into torch's default layout, as hooks do where modules are called."""
    for node in list(graph.nodes):
        if node.target not in _CONVOLUTIONS[:2] or "val" not in node.args[1].meta:
            continue
        stride = node.args[3] if len(node.args) > 3 else (1, 1)
        if layout.writes_past_the_end(node.args[1].meta["val"].shape, stride):
            with graph.inserting_before(node):
                inputs = graph.call_function(layout.in_default_layout, (node.args[0],))
            node.replace_input_with(node.args[0], inputs)


def _becomes(node: fx.Node, names: Mapping[fx.Node, str]) -> str:
    """Return the tensor that a node, with those that the exporter fused it into, computes in the ONNX graph."""
    while node not in names and len(node.users) == 1:
        node = next(iter(node.users))
    return names.get(node, "")


def _need(nodes: Mapping[str, fx.Node], name: str) -> fx.Node:
    if name not in nodes:
        raise _unknown(name)
    return nodes[name]


def _in_two_steps(graph: fx.Graph, silu: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Compute SiLU as the ONNX graph does; return the sigmoid and the product."""
    inputs = silu.args[0]
    with graph.inserting_before(silu):
        gate = graph.call_function(_ATEN.sigmoid.default, (inputs,))
        product = graph.call_function(_ATEN.mul.Tensor, (inputs, gate))
    silu.replace_all_uses_with(product)
    graph.erase_node(silu)
    return gate, product


def _unknown(name: str) -> StageError:
    return StageError(
        f"qat cannot train this network: the traced program lacks the tensor {name} of the exported graph.",
        hint="Quantize the artifact without qat. tlopt quantize --max-drop keeps blocks in float.",
    )


def _round_weight(graph: fx.Graph, node: fx.Node, name: str, limit: int) -> fx.Node:
    """Round the weight of a layer, with the batch norm that follows folded in, and return the layer.

    Args:
        graph: Changed in place.
        node: The layer, or the batch norm's result.
        name: Of the tensor in the ONNX graph.
        limit: Largest magnitude of the weight's integers.
    """
    norm = None
    layer: Any = node
    if layer.target is operator.getitem:
        norm = layer.args[0]
    elif layer.target in _NORMS:
        norm = layer
    if norm is not None and norm.target in _NORMS:
        layer = norm.args[0]
    if layer.target not in _CONVOLUTIONS or layer.args[1].op != "placeholder":
        raise _unknown(name)
    inputs, weight, bias, *rest = (*layer.args, None) if len(layer.args) == 2 else layer.args
    with graph.inserting_before(layer):
        if norm is not None:
            pair = graph.call_function(fold, (weight, bias, *norm.args[1:5], norm.args[_NORMS[norm.target]]))
            weight = graph.call_function(operator.getitem, (pair, 0))
            bias = graph.call_function(operator.getitem, (pair, 1))
        layer.args = (inputs, graph.call_function(round_weight, (weight, limit)), bias, *rest)
    if norm is not None:
        node.replace_all_uses_with(layer)
    found: fx.Node = layer
    return found
