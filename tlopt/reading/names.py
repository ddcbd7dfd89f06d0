"""Names that come from outside, of classes, folders and files: which may be used, and how they are shown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from tlopt.errors import ImagesError

LONGEST = 1000  # characters of a class name
# The controls of ASCII and Latin-1, lines and paragraphs of Unicode, what XML forbids, and the bytes of file names
# that are no UTF-8, which Python holds as lone surrogates.
_FORBIDDEN = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff"
_UNUSABLE = re.compile(f"[{_FORBIDDEN}]")
# Shown escaped, too: what turns the direction of the text that follows, and so hides it.
_UNSAFE = re.compile(f"[{_FORBIDDEN}\u202a-\u202e\u2066-\u2069]")


def shown(text: object) -> str:
    r"""Return a text as it may be shown: control characters and what is no UTF-8 as ``\x1b``.

    Lines stay lines: a name that may hold them is shown with `shown_name`.
    """
    return "\n".join("\t".join(map(shown_name, line.split("\t"))) for line in str(text).split("\n"))


def shown_name(name: object) -> str:
    r"""Return a name as it may be shown, on one line: control characters and what is no UTF-8 as ``\x1b``."""
    return _UNSAFE.sub(_escape, str(name))


def drawn(name: object) -> str:
    """Return a name as matplotlib draws it as it is: without control characters, and a dollar is no formula."""
    return shown_name(name).replace("$", r"\$")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # the byte of the file's name
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def check_classes(names: Iterable[str], where: object) -> None:
    """Check that names of classes can be written, drawn and shown.

    Args:
        names: The class names.
        where: The folder or the file that they are from.

    Raises:
        ImagesError: One holds control characters, is no UTF-8, or is too long.
    """
    for name in names:
        if found := _UNUSABLE.search(name):
            escaped = _escape(found)
            surrogate = 0xD800 <= ord(found[0]) <= 0xDFFF
            what = "is not written in UTF-8" if surrogate else f"holds the control character {escaped}"
        elif len(name) > LONGEST:
            what = f"has {len(name)} characters, more than {LONGEST}"
        else:
            continue
        raise ImagesError(
            f"The class {shown_name(name[:80])} of {shown_name(where)} {what}.",
            hint="Rename it: a class name is text of one line without control characters.",
        )


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of names that differ by case, spacing or how letters are encoded alone."""
    first: dict[str, str] = {}
    found = []
    for name in names:
        key = "".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())
        if first.setdefault(key, name) != name:
            found.append((first[key], name))
    return found
