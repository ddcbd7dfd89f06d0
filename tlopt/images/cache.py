"""Where decoded images and features are kept for later runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tlopt.errors import SettingError
from tlopt.settings import Setting


def default_cache() -> Path:
    """Return the folder that decoded images are kept in unless the caller names one.

    Raises:
        SettingError: There is no home folder.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if given.startswith("/"):  # others do not count, says the XDG Base Directory Specification
        return Path(given) / "tlopt"
    try:
        return Path.home() / ".cache" / "tlopt"
    except RuntimeError as error:
        raise SettingError(
            "There is no home folder to keep decoded images in.", hint="Name a folder with --cache-dir."
        ) from error


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A folder that is filled up to a size."""

    cache_dir: Annotated[
        Path | None, Setting("Folder that keeps decoded images. Default: ~/.cache/tlopt.", group="Data")
    ] = None
    cache_gb: Annotated[
        float, Setting("Largest size of the folder of decoded images, in GB. 0 keeps nothing.", minimum=0, group="Data")
    ] = 20.0

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.cache_dir or default_cache()

    @property
    def features(self) -> Path | None:
        """Where features are kept, None if nothing is."""
        return self.folder / "features" if self.cache_gb > 0 else None
