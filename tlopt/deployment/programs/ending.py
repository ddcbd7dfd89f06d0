"""How the programs of deployments end; they have this in decoding.py."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from tlopt.reading.names import shown_name


def one_line(error: Exception) -> str:
    """Return what an error says, on one line and without a point."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return (said.strip().partition("\n")[0] or type(error).__name__).rstrip(".")


def exit_code(program: Callable[[], int], own: type[Exception]) -> int:
    """Run a program and return its exit code: 1, and a line on stderr, if it fails by an error that is known.

    Args:
        program: It prints, and returns its exit code.
        own: The program's own kind of error, beside those of files.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that its encoding does not have
    try:
        code = program()
        if sys.stdout is not None:  # as it is where whoever started the program has closed it
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the answers has enough
        code = 0
    except KeyboardInterrupt:
        code = 130  # as shells count Ctrl-C
    except (own, OSError) as error:
        print(shown_name(one_line(error) if isinstance(error, OSError) else error), file=sys.stderr)
        code = 1
    _drop_unwritable()
    return code


def _drop_unwritable() -> None:
    """Throw away what stdout does not take, so that Python does not fail over it once more at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
