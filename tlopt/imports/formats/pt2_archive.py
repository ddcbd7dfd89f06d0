"""What a file of ``torch.export.save`` holds: nodes, inputs, outputs and tensors, read without its loader.

The loader of torch 2.13 unpickles what the file tells it to, evaluates its formulas of shapes with ``sympify``, and
takes any function below ``torch`` for an operator. Whoever wrote the file would run code here. So the parts are read
one by one: JSON, and the plain bytes of tensors. What is stored otherwise is refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tlopt.errors import ArtifactError
from tlopt.imports.probing import EXPORT
from tlopt.reading import files
from tlopt.reading.names import shown_name
from tlopt.reading.schema import SchemaError, parse_json

SCHEMA = 8  # major version of torch/_export/serde/schema.py, torch 2.8 to 2.13
# Numbers of torch/_export/serde/schema.py, ScalarType.
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_STRIDED = 7
_LARGEST = 512 << 20  # bytes of a description: source lines are noted for each node
_PARTS = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
_AGAIN = "Export the network to ONNX where its code is: torch.onnx.export(model, (images,), 'model.onnx', dynamo=True)."


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A program of torch.export.

    Args:
        nodes: What is computed, in order, as the file says it.
        tensors: Weights and constants by the names that nodes know them by.
        image: Name of the input.
        shape: Of the input: number of images, then three lengths; None where the program takes any length.
        example: The lengths that it was exported with.
        dtype: Of the input.
        outputs: Names of the answers.
    """

    nodes: tuple[Mapping[str, Any], ...]
    tensors: Mapping[str, torch.Tensor]
    image: str
    shape: tuple[int | None, ...]
    example: tuple[int, ...]
    dtype: torch.dtype
    outputs: tuple[str, ...]


def read(file: Path) -> Program:
    """Return the program of a file.

    Raises:
        ArtifactError: It is no such file, damaged, or holds what only trusted files may hold.
    """
    try:
        with files.open_regular(file) as opened, zipfile.ZipFile(opened) as archive:
            return _program(_Archive(archive, file))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, SchemaError,
            zipfile.BadZipFile, NotImplementedError, EOFError) as error:  # fmt: skip
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ArtifactError(
            f"{file} is no file of torch.export.save, or damaged: {shown_name(reason)}", hint=_AGAIN
        ) from error


class _Archive:
    """The members of an archive; none is packed, so none is larger than the file.

    Args:
        archive: The opened archive.
        file: Its name, for messages.
    """

    def __init__(self, archive: zipfile.ZipFile, file: Path) -> None:
        self._archive, self.file = archive, file
        names = archive.namelist()
        if "serialized_exported_program.json" in names:
            raise self.refused("was saved by a torch before 2.8", "Save it again with a newer torch, or export ONNX.")
        if any("/data/aotinductor/" in name for name in names):
            raise self.refused("holds machine code of AOTInductor, which would run unseen", _AGAIN)
        found = [name for name in names if "/models/" in name and name.endswith(".json")]
        if len(found) != 1:
            raise self.refused(f"holds {len(found)} programs; one is read", _AGAIN)
        self.root, _, model = found[0].partition("/models/")
        self.model = model.removesuffix(".json")

    def refused(self, why: str, hint: str) -> ArtifactError:
        return ArtifactError(f"{self.file} {why}.", hint=hint)

    def bytes(self, name: str) -> bytes:
        member = self._archive.getinfo(f"{self.root}/{name}")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        return self._archive.read(member)

    def json(self, name: str) -> Any:
        content = self.bytes(name)
        if len(content) > _LARGEST:
            raise ValueError(f"{name} is too large")
        return parse_json(content, finite=False)


def _program(archive: _Archive) -> Program:
    description = archive.json(f"models/{archive.model}.json")
    if (major := description["schema_version"]["major"]) != SCHEMA:
        raise archive.refused(f"has schema {major} of torch.export; tlopt reads schema {SCHEMA}", _AGAIN)
    graph, signature = description["graph_module"]["graph"], description["graph_module"]["signature"]
    stored = {**_tensors(archive, "weights"), **_tensors(archive, "constants")}
    image, tensors = "", {}
    for spec in signature["input_specs"]:
        [(kind, found)] = spec.items()
        if kind in _PARTS:
            tensors[found["arg"]["name"]] = stored[found[_PARTS[kind]]]
        elif kind == "user_input" and not image and "as_tensor" in found["arg"]:
            image = found["arg"]["as_tensor"]["name"]
        else:
            raise archive.refused("has other inputs than one image", "Export it with the image as its only input.")
    outputs = []
    for spec in signature["output_specs"]:
        [(kind, found)] = spec.items()
        if kind != "user_output" or "as_tensor" not in found["arg"]:
            raise archive.refused(f"does more than answer: it has a {kind.replace('_', ' ')}", EXPORT)
        outputs.append(found["arg"]["as_tensor"]["name"])
    if not image or not outputs:
        raise archive.refused("has no input or no output", _AGAIN)
    meta = graph["tensor_values"][image]
    return Program(
        nodes=tuple(graph["nodes"]), tensors=tensors, image=image, outputs=tuple(outputs), dtype=DTYPES[meta["dtype"]],
        shape=tuple(one.get("as_int") for one in meta["sizes"]),
        example=tuple(one["as_int"] if "as_int" in one else one["as_expr"]["hint"]["as_int"] for one in meta["sizes"]),
    )  # fmt: skip


def _tensors(archive: _Archive, kind: str) -> dict[str, torch.Tensor]:
    """Return the weights or the constants by their names in the network."""
    found, plain = {}, {}
    for name, entry in archive.json(f"data/{kind}/{archive.model}_{kind}_config.json")["config"].items():
        place, meta = str(entry["path_name"]), entry["tensor_meta"]
        if entry["use_pickle"] or meta is None or place.startswith(("custom_obj", "opaque_obj")):
            raise archive.refused(f"keeps {shown_name(name)} as a pickle, which may run code when it is opened", _AGAIN)
        if meta["layout"] != _STRIDED:
            raise archive.refused(f"keeps {shown_name(name)} in a layout that is not read", _AGAIN)
        if place not in plain:
            plain[place] = archive.bytes(f"data/{kind}/{place}")
        found[name] = _tensor(plain[place], meta, name)
    return found


def _tensor(content: bytes, meta: Mapping[str, Any], name: str) -> torch.Tensor:
    dtype = DTYPES[meta["dtype"]]
    sizes, strides = ([int(one["as_int"]) for one in meta[key]] for key in ("sizes", "strides"))
    if not content:
        if 0 not in sizes:
            raise ValueError(f"the tensor {name} is empty")
        return torch.zeros(sizes, dtype=dtype)
    flat = torch.frombuffer(bytearray(content), dtype=dtype)
    # A view that would reach past the bytes is refused by torch.
    return torch.as_strided(flat, sizes, strides, int(meta["storage_offset"]["as_int"])).contiguous()
