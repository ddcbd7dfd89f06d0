"""Every error that a user can fix, and the exit code of the command line for it."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_SHOWN = 30  # names in a hint: more fill the screen


# What a library says ends with a period of its own, and our sentence around it with another one.
_ENDED_TWICE = re.compile(r"(?<=[^.\s])([.?!])\.$")


class TloptError(Exception):
    """Base of all errors a user can fix.

    Args:
        message: What is wrong, with the received value and where it was met.
        hint: The next thing to try: one sentence or one command.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = _ENDED_TWICE.sub(r"\1", message)
        super().__init__(self.message)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class SettingError(TloptError, ValueError):
    """A setting is unknown, of the wrong type or out of its range."""

    exit_code = 2


class PluginError(TloptError, LookupError):
    """No plugin, model, backend or target goes by the given name."""

    exit_code = 2


class MissingLibraryError(TloptError, ImportError):
    """An optional library is not installed; the hint names the extra that brings it."""


class ImagesError(TloptError):
    """A folder of images cannot be used as it is."""


class ArtifactError(TloptError):
    """An artifact is missing, damaged, newer than this version, or of the wrong kind."""


class OutputExistsError(TloptError, FileExistsError):
    """The output is there already and may not be replaced."""

    exit_code = 2


class OutputError(TloptError):
    """The output cannot be written where it was asked for: a read-only or full disk, a name too long."""


class MisplacedError(OutputError):
    """The output would lie among the images that a command reads."""

    exit_code = 2


class StageError(TloptError):
    """A library that a stage relies on failed; its own exception is the cause."""


class NotFiniteError(StageError):
    """A network answers with numbers that are not finite, which say nothing."""


class StudyError(TloptError):
    """The study of a search is damaged, cannot be reached, or is of another search."""


class CheckError(TloptError):
    """An accuracy, parity or latency gate was breached."""

    exit_code = 3


# By the text: libraries raise their own errors with the system's words in them.
_FULL = re.compile(rf"{os.strerror(errno.ENOSPC)}|{os.strerror(errno.EDQUOT)}", re.IGNORECASE)


def reason(error: Exception) -> str:
    """Return what a library says is wrong, to be put into a sentence: its first line, without a period."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")


_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


def wrong_with(error: Exception, hint: str) -> tuple[str, str]:
    """Return what is wrong with a file, as the end of a sentence, and what to do about it.

    What the system does not let us read may be whole: nobody is told to make it again.

    Args:
        error: What reading it raised.
        hint: What to do if the file itself is wrong.
    """
    if isinstance(error, OSError) and error.errno is not None and error.errno not in _ABSENT:
        return f"cannot be read: {reason(error)}", "It may be whole. See to its permissions and to its disk."
    if isinstance(error, OSError) and error.errno is not None:
        return "is missing" if error.errno == errno.ENOENT else f"cannot be read: {reason(error)}", hint
    return f"is damaged: {reason(error)}", hint


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: its closest match, or the known names."""
    choices = sorted(set(known))
    if close := difflib.get_close_matches(name, choices, n=1):
        return f"Did you mean {close[0]!r}?"
    if not choices:
        return "None is available."
    more = f" and {len(choices) - _SHOWN} more" if len(choices) > _SHOWN else ""
    return f"Known: {', '.join(choices[:_SHOWN])}{more}."


@contextmanager
def wrapping(verb: str) -> Iterator[None]:
    """Turn a third-party failure inside the block into a `StageError` with its cause.

    Our own errors, interruptions and bugs in our own assertions pass through as they are.
    """
    try:
        yield
    except (TloptError, AssertionError):
        raise
    except MemoryError as error:
        raise StageError(f"{verb} ran out of memory.", hint="Try a smaller --batch or --image-size.") from error
    except Exception as error:
        if _FULL.search(str(error)):
            raise StageError(
                f"{verb} stopped: there is no space left on the disk.",
                hint="Free space, or choose another --out. Temporary files take space, too: TMPDIR names their folder.",
            ) from error
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise StageError(f"{verb} failed: {first}", hint="Run with --debug for the whole traceback.") from error
