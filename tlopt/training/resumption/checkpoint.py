"""Checkpoints of a training run: one safetensors file, replaced in one step, never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tlopt.errors import ArtifactError, StageError, TloptError, wrong_with
from tlopt.publishing import CHECKPOINT, writing
from tlopt.reading import files
from tlopt.reading.schema import convert, parse_json

FILE = CHECKPOINT
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a run keeps its state, and how often.

    Args:
        folder: Made when first written to.
        every_s: Seconds between checkpoints within an epoch; each epoch ends with one.
        resume: Go on from what lies in the folder.
        earlier: The outcomes of trainings that came before, kept beside the state of this one.
    """

    folder: Path
    every_s: float = 60.0
    resume: bool = False
    earlier: tuple[State, ...] = ()

    @property
    def file(self) -> Path:
        """The checkpoint."""
        return self.folder / FILE

    def tell_of_another(self) -> None:
        """Say that an interrupted run could go on, where this one starts over."""
        if not self.resume and self.file.exists():
            log.warning(
                "An interrupted run left a checkpoint, %s. This run starts over and replaces it. "
                "To go on instead, stop this run and add --resume.", self.file,
            )  # fmt: skip


@dataclass(kw_only=True)
class State:
    """What a run needs to go on as if it had not stopped.

    Args:
        tensors: By name.
        record: JSON values; floats survive exactly.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def put(self, prefix: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Add tensors under a prefix."""
        self.tensors.update({f"{prefix}/{name}": tensor for name, tensor in tensors.items()})

    def take(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors under a prefix, without it."""
        start = f"{prefix}/"
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def earlier(checkpoints: Checkpoint | None) -> list[State]:
    """Return the outcomes of the trainings that came before the one that a checkpoint is of.

    Raises:
        ArtifactError: The file is damaged.
    """
    state = read(checkpoints.file) if checkpoints is not None and checkpoints.resume else None
    if state is None or checkpoints is None:
        return []
    with taking_up(checkpoints.file):
        records: list[dict[str, Any]] = state.record["earlier"]
        return [State(tensors=state.take(f"earlier/{n}"), record=record) for n, record in enumerate(records)]


def write(file: Path, state: State) -> None:
    """Write a state; whatever interrupts this, the file is the old one or the new one.

    Raises:
        StageError: The disk is full or cannot be written; the old checkpoint stands.
    """
    # Copies keep tensors that share memory apart, which safetensors demands.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.tensors.items()}
    try:
        with writing(file) as scratch:
            record = json.dumps(state.record)
            save_file(tensors, scratch, metadata={"record": record, "sha256": _digest(record, tensors)})
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):  # where there is nothing to go on with, nothing is left behind
            file.parent.rmdir()
        kept = f" The checkpoint before it stands: {file}." if file.exists() else ""
        raise StageError(
            f"The checkpoint {file} cannot be written: {error}.{kept}",
            hint="Free space on the disk, then run the same command with --resume.",
        ) from error


def read(file: Path) -> State | None:
    """Read a state, or return None if there is none.

    Raises:
        ArtifactError: The file is damaged.
    """
    if not file.exists():
        return None
    try:
        files.expect_regular(file)
        with safe_open(file, framework="pt") as opened:
            told = opened.metadata()
            record = convert(parse_json(told["record"], finite=False), dict[str, Any], finite=False)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if told.get("sha256", "") not in ("", _digest(told["record"], tensors)):  # older versions wrote none
            raise ValueError("its content is not what was written")
        return State(tensors=tensors, record=record)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, error) from error


def _digest(record: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of a state."""
    found = hashlib.sha256(record.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return found.hexdigest()


@contextlib.contextmanager
def taking_up(file: Path) -> Iterator[None]:
    """Say of a state that does not fit the run that its file is damaged.

    Raises:
        ArtifactError: Something is missing in the state, or of another type or shape.
    """
    try:
        yield
    except TloptError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ArtifactError:
    wrong, hint = wrong_with(error, f"Delete {file.parent} and start without --resume.")
    return ArtifactError(f"The checkpoint {file} {wrong}.", hint=hint)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return an optimizer's state as tensors and JSON values.

    Names are ``index/key`` for a parameter and ``group index/key`` for a group, in which some of timm's
    optimizers count their steps.
    """
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}
    state = optimizer.state_dict()
    rows = [(f"{index}", entries) for index, entries in state["state"].items()]
    rows += [(f"group {index}", entries) for index, entries in enumerate(state["param_groups"])]
    for where, entries in rows:
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{where}/{key}"] = value
            elif key != "params":
                values[f"{where}/{key}"] = value
    return tensors, values


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]
) -> None:
    """Give an optimizer the state that `optimizer_state` returned.

    Tensors of a parameter's shape take its memory order, which files do not keep: a sum over them in
    another order is another number in its last bit.
    """
    state: dict[int, dict[str, Any]] = {}
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in [*tensors.items(), *values.items()]:
        where, _, key = name.partition("/")
        if isinstance(value, torch.Tensor) and where.isdecimal() and value.shape == parameters[int(where)].shape:
            value = torch.empty_like(parameters[int(where)], dtype=value.dtype, device=value.device).copy_(value)
        entries = groups[int(where.removeprefix("group "))] if "group" in where else state.setdefault(int(where), {})
        # JSON has no tuples, which the momenta of some optimizers are.
        entries[key] = tuple(value) if isinstance(value, list) else value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
