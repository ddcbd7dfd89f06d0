"""Whether files begin as images do: a look that costs little, before work that takes minutes."""

from __future__ import annotations

import os

from tlopt.errors import ImagesError
from tlopt.images.decoding import Unreadable
from tlopt.images.folder import ImageFolder
from tlopt.images.ordered import ordered
from tlopt.progress import track
from tlopt.reading.image_files import expect_header


def with_headers(folder: ImageFolder) -> ImageFolder:
    """Return those images whose files begin as images do. The others are told when they are decoded.

    Raises:
        ImagesError: More than a tenth of the files do not: decoding them would stop there.
    """
    paths = [os.path.join(folder.path, name) for name in folder.files]
    problems = list(track(ordered(_problem, paths, chunk=32), label="Looking at images", total=len(paths)))
    unreadable = Unreadable(len(folder), quiet=True)
    for name, problem in zip(folder.files, problems, strict=True):
        if problem:
            unreadable.add(name, problem)
    return folder.select([place for place, problem in enumerate(problems) if not problem])


def _problem(path: str) -> str:
    try:
        expect_header(path)
    except ImagesError as error:
        return error.message
    return ""
