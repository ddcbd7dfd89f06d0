"""What TensorRT for RTX compiled for the GPU here, kept in a file from one process to the next."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tlopt.engine.flavour import Flavour
from tlopt.errors import SettingError, StageError, reason
from tlopt.publishing import write_whole
from tlopt.reading.files import TABLE_LIMIT, read_bytes

log = logging.getLogger(__name__)

_MARK = b"tlopt: kernels of TensorRT for RTX\n"  # what a file of ours begins with: no other one is written over


class RuntimeCache:
    """The kernels that an engine of TensorRT for RTX compiles when it first runs.

    The library's cache must live longer than the contexts that use it: keep this until they are gone, then `save`.

    Args:
        file: Where they are kept; it need not be there yet.
        flavour: The library that opens the engine.

    Raises:
        SettingError: The library compiles nothing when an engine runs, or the file holds something else.
        StageError: The file cannot be read.
    """

    def __init__(self, file: Path, flavour: Flavour) -> None:
        if flavour.name != "rtx":
            raise SettingError(
                f"{flavour.title} compiles its kernels while it builds, so it has no runtime cache.",
                hint="Leave runtime_cache out. tlopt build --timing-cache makes its builds quicker.",
            )
        self._file = file
        self._cache: Any = None
        try:
            content = read_bytes(file, limit=TABLE_LIMIT) if file.exists() else b""
        except OSError as error:
            raise StageError(f"The runtime cache {file} cannot be read: {reason(error)}.") from error
        if content and not content.startswith(_MARK):
            raise SettingError(
                f"{file} is no runtime cache that tlopt wrote. It would be written over.",
                hint="Name a new file for runtime_cache, or remove this one.",
            )
        self._kept = content.removeprefix(_MARK)

    def attach(self, config: Any) -> None:
        """Let contexts that are made with a runtime configuration use the cache.

        Raises:
            StageError: The library refuses it.
        """
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._kept and not self._cache.deserialize(self._kept):
                log.warning("The runtime cache %s is of another GPU or version; starting a new one.", self._file)
                self._cache = config.create_runtime_cache()
        if not config.set_runtime_cache(self._cache):
            raise StageError("TensorRT for RTX does not take the runtime cache.", hint="Leave runtime_cache out.")

    def save(self) -> None:
        """Write what was compiled. A file that cannot be written is said, and the results stand."""
        cache, self._cache = self._cache, None
        if cache is None:
            return
        content = bytes(cache.serialize())
        try:
            if content != self._kept:
                write_whole(self._file, _MARK + content)
        except OSError as error:
            log.warning("The runtime cache %s cannot be written: %s.", self._file, error)
