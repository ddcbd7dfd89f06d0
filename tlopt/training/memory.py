"""Memory that training gives back and takes again, step after step."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's malloc.h, with the values the library starts with.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}
_open: list[ctypes.CDLL] = []  # one entry per block that has begun and not ended
_lock = threading.Lock()
_KEPT = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


@contextmanager
def kept() -> Iterator[None]:
    """Keep freed memory in the process for the length of the block.

    glibc gets each large block from the kernel and hands it back when it is freed, and the kernel
    clears the pages anew each time. A training step on a processor takes and frees hundreds of activations
    of many megabytes: without this, about a quarter of its time went there. At the end of the block
    what is free is handed back. Does nothing where the C library is not glibc.

    Source: mallopt(3) and malloc_trim(3), Linux man-pages.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    with _lock:
        _open.append(libc)
        for option, value in _KEPT.items():
            libc.mallopt(option, value)
    try:
        yield
    finally:
        with _lock:
            _open.pop()
            if not _open:
                for option, value in _DEFAULTS.items():
                    libc.mallopt(option, value)
                libc.malloc_trim(0)
