"""Weights that an ONNX file keeps in other files: they may lie beside it, and nowhere else.

A file may name any other one as the place of a tensor. Opened unasked, that could be a private file of the user's,
whose content then becomes part of what is made, or a device that never ends.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlopt.errors import ArtifactError
from tlopt.reading import files
from tlopt.reading.names import shown_name

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message  # type: ignore[import-untyped]  # it has no stubs

# ONNX Runtime's word for tensors in its own memory. OpenVINO takes it from files, too, and reads from any address.
_ADDRESS = "_ORT_MEM_ADDR_"


def check(file: Path, *, listed: Collection[str] | None = None) -> None:
    """Check the files that an ONNX file names as the places of its weights, before any of them is opened.

    Args:
        file: The ONNX file.
        listed: Names that it may use; None for all files beside it and below.

    Raises:
        ArtifactError: One lies outside the folder, is not listed, or is no regular file; or this is no ONNX file.
        OSError: The file cannot be read.
    """
    if not _may_name(file):
        return
    for name in sorted(set(_places(file))):
        if _ADDRESS in name:
            raise ArtifactError(f"{file} keeps weights at an address in memory, which only a running program may.")
        place = file.parent / name
        if not name or "\0" in name or not files.real_path(place).is_relative_to(files.real_path(file.parent)):
            raise ArtifactError(f"{file} keeps weights in a file outside of its folder: {shown_name(name)}.")
        if listed is not None and Path(name).as_posix() not in listed:
            raise ArtifactError(f"{file} keeps weights in {shown_name(name)}, which its card does not list.")
        try:
            files.expect_regular(place)
        except files.IrregularFileError as error:
            raise ArtifactError(f"{file} keeps weights in a file that cannot be used: {error.message}") from error
        except OSError as error:
            raise ArtifactError(f"{file} keeps weights in {shown_name(name)}, which is missing.") from error


def _may_name(file: Path) -> bool:
    """Return whether the word occurs that stands before each such place; to parse a file takes far longer."""
    with files.open_regular(file) as opened:
        if not file.stat().st_size:
            return False
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b"location") >= 0


def _places(file: Path) -> Iterator[str]:
    import onnx

    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:
        # The parsers of protobuf's implementations share no error.
        raise ArtifactError(f"{file} is not a readable ONNX file.") from error
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a file, wherever its format lets one be: in graphs, functions and attributes of both."""
    import onnx

    rest: list[Message] = [model]
    while rest:
        for field, value in rest.pop().ListFields():
            if field.message_type is None:
                continue
            for message in value if isinstance(value, Sequence) else (value,):
                if isinstance(message, onnx.TensorProto):
                    yield message
                else:
                    rest.append(message)
