"""Why torch can make no graph of a network, in words, with the line of its code where that is known."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import onnxscript
import torch

from tlopt.errors import StageError, TloptError, reason

_DECIDES = ("GuardOnDataDependentSymNode", "DataDependentOutputException")
_PYTHON = Path(traceback.__file__).parent
_LIBRARIES = [Path(__file__).parents[1], *(Path(str(library.__file__)).parent for library in (torch, onnxscript))]
# torch tells a graph in which it fails through its own handler, whatever the logging of the program is.
_LOUD = "torch.fx.experimental.symbolic_shapes"


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Keep quiet what torch prints while it makes a graph, and turn its failure into an error that says what to do.

    Raises:
        StageError: torch failed.
    """
    loud, noise = logging.getLogger(_LOUD), io.StringIO()
    was, loud.disabled = loud.disabled, True
    try:
        with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            yield
    except (TloptError, MemoryError):
        raise
    except Exception as error:  # the exporter's exceptions share no base but this
        raise _told(error) from error
    finally:
        loud.disabled = was
        logging.getLogger(__name__).debug("%s", noise.getvalue())


def _told(error: BaseException) -> StageError:
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    place = next((found for found in map(_place, reversed(causes)) if found), "")
    if any(type(cause).__name__ in _DECIDES for cause in causes):
        return StageError(
            f"The network decides by the values of its images what to compute{place}. A graph cannot.",
            hint="Compute both ways and choose with torch.where, or leave the decision out.",
        )
    return StageError(
        f"torch can make no graph of the network{place}: {_reason(causes[-1])}",
        hint="Write that part with other operators. Run with --debug for the whole traceback.",
    )


def _reason(error: BaseException) -> str:
    return reason(error) if isinstance(error, Exception) else type(error).__name__


def _place(error: BaseException) -> str:
    """Return the innermost line of a network's code: neither torch's, nor Python's own, nor tlopt's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        pythons = file.is_relative_to(_PYTHON) and "site-packages" not in file.parts
        if frame.line and not pythons and not any(file.is_relative_to(folder) for folder in _LIBRARIES):
            return f" (line {frame.lineno} of {file.name}, in {frame.name}: {frame.line})"
    return ""
