"""The style of pictures: the same on every machine, whatever file of settings matplotlib finds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tlopt.publishing.kinds import CREATOR
from tlopt.reading import files

METADATA = {"Creator": CREATOR, "Date": None}  # the same figure gives the same file, and shows whose it is


@contextlib.contextmanager
def style(settings: Mapping[str, Any]) -> Iterator[None]:
    """Draw what the block draws with matplotlib's defaults and these settings.

    matplotlib reads a ``matplotlibrc`` of the current folder, which may be a folder of somebody else's images. Such a
    file can have every text set by LaTeX, another program.

    Args:
        settings: Names and values of matplotlib's rc settings.

    Raises:
        IrregularFileError: A pipe or the like goes by that name here, and matplotlib would wait for it.
    """
    with contextlib.suppress(FileNotFoundError):
        files.expect_regular(Path("matplotlibrc"))
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield
