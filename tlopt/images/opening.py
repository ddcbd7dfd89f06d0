"""Opening the decoded images of a folder, from the cache if they are there."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from tlopt.images.cache import default_cache
from tlopt.images.decoding import Unreadable
from tlopt.images.folder import ImageFolder
from tlopt.images.pixels import Pixels
from tlopt.images.store import COLUMNS, UNKNOWN, UNREADABLE, claim, key_of, make_room, open_set, space
from tlopt.preprocess import Preprocess


def open_pixels(
    folder: ImageFolder,
    preprocess: Preprocess,
    *,
    cache: Path | None = None,
    cache_gb: float = 20.0,
) -> Pixels:
    """Open the decoded images of a folder: from the cache, or an empty file that `Pixels.fill` fills.

    The cache is keyed by what the images hold and how they are resized. Runs that need the same one
    at the same time share it once it is complete; until then one run fills it and the others work
    on files of their own, which they drop at the end. Images that do not fit into `cache_gb` are
    decoded each time.

    Args:
        folder: The images.
        preprocess: How a file becomes an input.
        cache: Folder that decoded images are kept in; None for `default_cache`.
        cache_gb: Size the cache may grow to, 10^9 bytes; the sets unused for longest go first.
            0 keeps nothing.

    Raises:
        StageError: The cache folder cannot be written.
    """
    root = (cache or default_cache()) / "pixels"
    path = root / f"{key_of(folder, preprocess)}.u8"
    empty = np.full((len(folder), COLUMNS), UNKNOWN, np.int64)
    opened = partial(Pixels, folder=folder, preprocess=preprocess, unreadable=Unreadable(len(folder)))
    if cache_gb <= 0:
        return opened(_file=_anonymous(), _places=empty)
    limit = cache_gb * 1e9
    if (stored := open_set(path, len(folder), limit)) is None:
        if (lock := claim(path)) is None:
            return opened(_file=_anonymous(), _places=empty)  # another run is filling it
        if (stored := open_set(path, len(folder), limit)) is None:
            make_room(root.parent, cache_gb=cache_gb, coming=_expected_bytes(folder, preprocess))
            with space(root):
                # Made anew: what has its name may be a link to a file of the user, laid there by somebody else.
                path.with_suffix(".part").unlink(missing_ok=True)
                file = os.open(path.with_suffix(".part"), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            return opened(_file=file, _places=empty, _publish=(path, lock), _limit=limit)
        os.close(lock)  # another run finished it a moment ago
    make_room(root.parent, cache_gb=cache_gb)
    file, places = stored
    # What could not be read then is tried again, and decoded each time if it can be now.
    places[places[:, 1] == UNREADABLE] = UNKNOWN
    return opened(_file=file, _places=places, _stored=path, _limit=0)


def _expected_bytes(folder: ImageFolder, preprocess: Preprocess) -> int:
    """Return the size of the decoded set if all images had sides of 4 to 3."""
    return int(len(folder) * (preprocess.size / preprocess.crop_ratio) ** 2 * 3 * 4 / 3)


def _anonymous() -> int:
    """Open a file without a name, which vanishes when it is closed."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
