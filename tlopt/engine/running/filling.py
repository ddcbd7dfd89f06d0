"""Filling page-locked memory: one core writes 6 GB/s, and an NVIDIA H200 reads more than 50 GB/s."""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from tlopt.environment import cores

_LARGE = 4 << 20  # bytes that are worth more than one thread
_MOST = 8  # threads


def fill(target: np.ndarray, source: np.ndarray) -> None:
    """Copy a batch, with several threads if it is large.

    Args:
        target: (n, ...), contiguous.
        source: Of the same shape and type.
    """
    threads = min(cores(), _MOST, len(source))
    if source.nbytes < _LARGE or threads < 2:
        np.copyto(target, source)
        return
    ends = [len(source) * part // threads for part in range(threads + 1)]
    parts = [slice(first, last) for first, last in itertools.pairwise(ends)]
    working = [_pool().submit(np.copyto, target[part], source[part]) for part in parts]  # NumPy lets go of the GIL
    try:
        for one in working:
            one.result()
    finally:
        wait(working)  # whatever happened: the memory may be given back next


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MOST, thread_name_prefix="tlopt-fill")
