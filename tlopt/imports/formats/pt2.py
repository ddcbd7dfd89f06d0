"""Files of ``torch.export.save``: the program in one becomes an ONNX graph, and nothing in it is unpickled."""

from __future__ import annotations

from pathlib import Path

import torch

from tlopt.errors import ArtifactError
from tlopt.imports.formats.comparison import COUNT, Original, examples, filled
from tlopt.imports.formats.pt2_archive import Program
from tlopt.imports.formats.pt2_archive import read as read_program
from tlopt.imports.formats.pt2_network import Network
from tlopt.imports.probing import EXPORT
from tlopt.networks.tracing import trace_program
from tlopt.reading.names import shown_name

SUFFIX = ".pt2"
_OPSET = 18  # as of an export


def read(file: Path, *, size: int | None = None, width: int | None = None) -> Original:
    """Return the network of a file as a graph, and what torch answers with it.

    Args:
        file: What ``torch.export.save`` wrote.
        size: Side of the image, or its height, where the program takes any.
        width: Of the image, likewise.

    Raises:
        ArtifactError: It is no such file, holds what may not run, or cannot be exported.
    """
    program = read_program(file)
    try:
        network = Network(program, file)
        inputs = torch.from_numpy(examples(_shape(program, size, width), _numpy(program)))
        free = program.shape[0] is None or _takes_any(network, inputs, program.example[0])
        own = inputs if free else inputs[: program.example[0]]
        answers = [answer.numpy() for answer in _run(network, own)]
        if network.changed:
            raise ArtifactError(f"The program in {file} changes its own weights or statistics.", hint=EXPORT)
        names = (program.image, program.outputs)
        graph = trace_program(network, own[:2] if free else own, _OPSET, free=free, names=names)
    except ArtifactError:
        raise
    except Exception as error:
        # What torch raises for a program that does not fit its operators has no common class.
        reason = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise ArtifactError(
            f"The program in {file} cannot be run and exported: {shown_name(reason)}",
            hint="Export the network to ONNX where its code is, and import the ONNX file.",
        ) from error
    return Original(graph=graph, inputs=own.numpy(), answers=answers, runtime="torch")


def _shape(program: Program, size: int | None, width: int | None) -> tuple[int, ...]:
    """Return the shape of several images: what is free has the length of the export, but for what the user says."""
    sides = filled(program.shape, size, width) if size else program.example
    return max(COUNT, program.example[0]), *sides[1:]


def _numpy(program: Program) -> object:
    return torch.zeros(0, dtype=program.dtype).numpy().dtype


def _run(network: Network, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        found: tuple[torch.Tensor, ...] = network(inputs.clone())  # an operator may work in place
    return found


def _takes_any(network: Network, inputs: torch.Tensor, batch: int) -> bool:
    """Whether a program that was exported with so many images takes any number, and answers to each alike."""
    single, other = _run(network, inputs[:batch]), inputs.roll(1, 0)
    try:
        together, rolled = _run(network, inputs), _run(network, other)
    except (RuntimeError, ValueError, TypeError):
        return False
    return all(
        many.shape[:1] == (len(inputs),)
        and torch.allclose(one.double(), many[:batch].double(), rtol=1e-4, atol=1e-5)
        and torch.allclose(many.double(), turned.roll(-1, 0).double(), rtol=1e-4, atol=1e-5)
        for one, many, turned in zip(single, together, rolled, strict=True)
    )
