"""Several processes that train one network: what torchrun started, or one process alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from tlopt.environment import cores


def rank() -> int:
    """Return this process's number; 0 leads and alone writes files."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def seed(number: int) -> None:
    """Seed what torch draws at random where the network trains."""
    # torch.manual_seed writes down who asks it, for each kind of accelerator that is not in use.
    torch.default_generator.manual_seed(number)
    if (place := device()).type == "cuda":
        with torch.cuda.device(place):
            torch.cuda.manual_seed(number)


def device() -> torch.device:
    """Return where this process computes: its own GPU if there is one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


@contextmanager
def group() -> Iterator[None]:
    """Join the processes that torchrun started for the length of the block; alone, do nothing."""
    if world() == 1 or distributed.is_initialized():
        yield
        return
    place = device()
    if place.type == "cuda":
        torch.cuda.set_device(place)
    # Decoding a large set before the first step may take longer than the default half hour.
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(days=1))
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def leader_first() -> Iterator[None]:
    """Let process 0 go through the block before the others do, which then find its cached results."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def wait() -> None:
    """Wait until every process has come here."""
    if distributed.is_initialized():
        distributed.barrier()


def first(*values: float) -> tuple[float, ...]:
    """Return process 0's numbers in every process."""
    if not (distributed.is_initialized() and distributed.get_world_size() > 1):
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=device())
    distributed.broadcast(shared, 0)
    return tuple(shared.tolist())


def shared(value: torch.Tensor) -> torch.Tensor:
    """Return process 0's tensor in every process; it has the same shape in all."""
    if not (distributed.is_initialized() and distributed.get_world_size() > 1):
        return value
    moved = value.to(device())
    distributed.broadcast(moved, 0)
    return moved.to(value.device)


def mean(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over the processes."""
    if distributed.is_initialized() and distributed.get_world_size() > 1:
        value = value.clone()
        distributed.all_reduce(value)
        value /= distributed.get_world_size()
    return value


@contextmanager
def threads_kept() -> Iterator[None]:
    """Use no more threads than there are cores under a quota; undo at the end what the block does to their number."""
    threads = torch.get_num_threads()
    if threads > cores():
        torch.set_num_threads(cores())
    try:
        yield
    finally:
        torch.set_num_threads(threads)
