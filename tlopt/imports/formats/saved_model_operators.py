"""Which operators a SavedModel of TensorFlow holds, found without TensorFlow, and which may run.

A SavedModel is a program: some operators read and write files, or call Python. Only those run that compute, and those
that hold and restore weights. What saves weights is in every SavedModel. It is passed over where nothing else calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tlopt.errors import ArtifactError
from tlopt.reading import files
from tlopt.reading.names import shown_name

_LARGEST = 2 << 30  # bytes: the most that protobuf reads
_HINT = (
    "Export the network to ONNX where its code is: python -m tf2onnx.convert --saved-model DIR --output model.onnx. "
    "Then import the ONNX file."
)
# Operators of TensorFlow 2.21 that compute, hold a variable, call a function, or restore weights.
_ALLOWED = frozenset(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").split())


def check(folder: Path, file: Path) -> None:
    """Refuse a SavedModel that could do more than compute.

    Args:
        folder: The SavedModel, for messages.
        file: Its ``saved_model.pb``.

    Raises:
        ArtifactError: The file is damaged, of TensorFlow 1, or holds an operator that does not just compute.
    """
    model = _message()
    try:
        model.ParseFromString(files.read_bytes(file, limit=_LARGEST))
    except (DecodeError, OSError) as error:
        raise ArtifactError(f"{file} is no SavedModel of TensorFlow, or damaged: {error}", hint=_HINT) from error
    if len(model.meta_graphs) != 1:
        raise ArtifactError(f"{file} holds {len(model.meta_graphs)} networks; one is read.", hint=_HINT)
    [network] = model.meta_graphs
    if not network.HasField("object_graph_def"):
        raise ArtifactError(f"{folder} was saved by TensorFlow 1.", hint=_HINT)
    for name in sorted(_run(network) - _ALLOWED):
        raise ArtifactError(
            f"{folder} holds the operator {shown_name(name)}. Only operators that compute are run.", hint=_HINT
        )


def _run(network: Any) -> set[str]:
    """Return the operators of a network, without those that only its saving needs."""
    graph = network.graph_def
    functions = {function.signature.name: function for function in graph.library.function}
    saves = network.saver_def.save_tensor_name.partition(":")[0]
    # TensorFlow 2 restores the weights without the saver's operators, and never calls what saves.
    if saves == network.saver_def.restore_op_name.partition(":")[0]:
        saves = ""
    roots = [node for node in graph.node if node.name != saves or node.op != "StatefulPartitionedCall"]
    called = {name for node in roots for name in _calls(node)} | set(network.object_graph_def.concrete_functions)
    saving = _reached({name for node in graph.node if node.name == saves for name in _calls(node)}, functions)
    others = functions.keys() - saving
    kept = _reached(called | others, functions)
    return {node.op for node in roots} | {node.op for name in kept for node in functions[name].node_def}


def _reached(names: set[str], functions: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in functions and name not in found:
            found.add(name)
            waiting += [called for node in functions[name].node_def for called in _calls(node)]
    return found


def _calls(node: Any) -> Iterator[str]:
    """Yield the functions that a node calls."""
    for value in node.attr.values():
        if value.func.name:
            yield value.func.name
        yield from (function.name for function in value.list.func)


# What is read of tensorflow/core/protobuf/saved_model.proto and the files that it imports: message -> fields, each with
# its number and its type; protobuf passes over the others.
_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "SavedModel": {"meta_graphs": (2, "MetaGraphDef*")},
    "MetaGraphDef": {"graph_def": (2, "GraphDef"), "saver_def": (3, "SaverDef"),
                     "object_graph_def": (7, "SavedObjectGraph")},
    "GraphDef": {"node": (1, "NodeDef*"), "library": (2, "FunctionDefLibrary")},
    "FunctionDefLibrary": {"function": (1, "FunctionDef*")},
    "FunctionDef": {"signature": (1, "OpDef"), "node_def": (3, "NodeDef*")},
    "OpDef": {"name": (1, "")},
    "NodeDef": {"name": (1, ""), "op": (2, ""), "attr": (5, "AttrValue{}")},
    "AttrValue": {"list": (1, "ListValue"), "func": (10, "NameAttrList")},
    "ListValue": {"func": (9, "NameAttrList*")},
    "NameAttrList": {"name": (1, "")},
    "SaverDef": {"save_tensor_name": (2, ""), "restore_op_name": (3, "")},
    "SavedObjectGraph": {"concrete_functions": (2, "SavedConcreteFunction{}")},
    "SavedConcreteFunction": {},
}  # fmt: skip
_PACKAGE = "tlopt.saved_model"


def _message() -> Any:
    """Return an empty SavedModel."""
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tlopt/saved_model.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, type_) in fields.items():
            many = kind.LABEL_REPEATED if type_.endswith(("*", "{}")) else kind.LABEL_OPTIONAL
            made = message.field.add(name=field, number=number, label=many, type=kind.TYPE_STRING)
            if not type_:
                continue
            made.type, made.type_name = kind.TYPE_MESSAGE, f".{_PACKAGE}.{type_.rstrip('*{}')}"
            if type_.endswith("{}"):  # a map is a list of pairs
                pair = message.nested_type.add(name=f"{field.title().replace('_', '')}Entry")
                pair.options.map_entry = True
                pair.field.add(name="key", number=1, label=kind.LABEL_OPTIONAL, type=kind.TYPE_STRING)
                pair.field.add(
                    name="value", number=2, label=kind.LABEL_OPTIONAL, type=kind.TYPE_MESSAGE, type_name=made.type_name
                )
                made.type_name = f".{_PACKAGE}.{name}.{pair.name}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.SavedModel"))()
