"""Where modules lie: found without importing them or the packages around them."""

from __future__ import annotations

import hashlib
import importlib.machinery
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tlopt.reading import files


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the code of a module lies.

    Args:
        file: The module's file.
        folder: The folder on the module search path that holds the module or its package.
        sha256: Of the file, after those of the packages around it.
    """

    file: str
    folder: str
    sha256: str


def locate(module: str, folders: Iterable[str] | None = None) -> Place | None:
    """Find a module without importing it or the packages around it; None where there is none with a file.

    Args:
        module: Its full name.
        folders: Where to look; None for where Python does.
    """
    search: list[str] | None = None if folders is None else list(folders)
    spec: importlib.machinery.ModuleSpec | None = None
    digest, folder, name = hashlib.sha256(), "", ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = find_spec(name, search)
        if spec is None:
            return None
        search = list(spec.submodule_search_locations or ())
        if spec.has_location and spec.origin:
            if not folder:
                file = Path(spec.origin)
                folder = str((file.parent.parent if search else file.parent).resolve())
            try:
                digest.update(files.read_bytes(spec.origin, limit=files.IMAGE_LIMIT))
            except OSError:
                return None
        elif search and not folder:  # a package without a file of its own
            folder = str(Path(search[0]).parent.resolve())
    if spec is None or not spec.has_location or not spec.origin:
        return None
    return Place(file=str(Path(spec.origin).resolve()), folder=folder, sha256=digest.hexdigest())


def find_spec(name: str, search: list[str] | None) -> importlib.machinery.ModuleSpec | None:
    """Find a module below no package, or in the folders that its package names, without importing anything."""
    # importlib.util.find_spec would import the packages around a module.
    if search is not None:
        return importlib.machinery.PathFinder.find_spec(name, search)
    for finder in sys.meta_path:
        try:
            if spec := finder.find_spec(name, None):
                return spec
        except (ImportError, AttributeError):
            continue
    return None
