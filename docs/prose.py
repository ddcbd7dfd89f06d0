"""Measure how long the sentences of the documentation are; with --check, fail where they are too long.

python docs/prose.py [--check] [PAGE …]

Headings, tables, code blocks, HTML and the addresses of links are left out. Inline code counts as one word.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

LIMIT = 25
ROOT = Path(__file__).parent.parent
# Written by docs/generate.py from the help texts, which tests of the command line hold to their own limits.
GENERATED = {"cli.md"}

_FENCE = re.compile(r"^\s*(```|~~~)")
_ITEM = re.compile(r"^\s*([-*+]|\d+\.)\s+")
_END = re.compile(r"(?<=[.!?:])[\"”)*_]*\s+(?=[\"“(*_`\[]*(?:[A-Z0-9`]|tlopt\b))")
_ABBREVIATION = re.compile(r"\b(e\.g|i\.e|vs|etc|al|cf)\.", re.IGNORECASE)


def pages() -> list[Path]:
    """Return every page that people wrote."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
    below = sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name not in GENERATED)
    return [page for page in top if page.exists()] + below


def paragraphs(text: str) -> Iterator[str]:
    """Yield the text of each paragraph and list item of a Markdown page, on one line each."""
    lines: list[str] = []
    fenced = in_list = False
    for line in [*re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).splitlines(), ""]:
        if _FENCE.match(line):
            fenced = not fenced
        indented = line.startswith("    ") and not in_list
        skipped = fenced or indented or bool(_FENCE.match(line)) or re.match(r"\s*(#|\||<|!!!|\?\?\?|:::)", line)
        if skipped or not line.strip() or _ITEM.match(line):
            if lines:
                yield " ".join(lines)
            lines = []
            in_list = bool(_ITEM.match(line)) or (in_list and (not line.strip() or line.startswith(" ")))
        if not skipped and line.strip():
            in_list = in_list and (bool(_ITEM.match(line)) or line.startswith(" "))
            lines.append(_ITEM.sub("", line).strip())


def sentences(text: str) -> list[str]:
    """Return the sentences of a page; a colon ends one where a capital letter follows."""
    found = []
    for paragraph in paragraphs(text):
        plain = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", paragraph)
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain)
        plain = re.sub(r"`[^`]*`", "`code`", plain)
        plain = _ABBREVIATION.sub(lambda match: match[0].replace(".", ""), plain)
        found += [sentence for sentence in _END.split(plain) if words(sentence)]
    return found


def words(sentence: str) -> int:
    """Return the number of words: what has a letter or a digit in it."""
    return sum(bool(re.search(r"\w", token)) for token in sentence.split())


def percentile_90(lengths: list[int]) -> int:
    """Return the smallest length that at least nine tenths do not exceed; 0 of none."""
    return sorted(lengths)[-(-9 * len(lengths) // 10) - 1] if lengths else 0


def main(arguments: list[str]) -> int:
    """Print a line for each page, longest sentences first with --long; return 1 if --check fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help=f"fail where the 90th percentile is over {LIMIT} words")
    parser.add_argument("--long", action="store_true", help=f"print the sentences of more than {LIMIT} words")
    parser.add_argument("pages", nargs="*", type=Path)
    chosen = parser.parse_args(arguments)
    too_long = False
    print(f"{'words':>6} {'prose':>6} {'sentences':>9} {'p90':>4}  page")
    for page in chosen.pages or pages():
        text = page.read_text(encoding="utf-8")
        found = sentences(text)
        lengths = [words(sentence) for sentence in found]
        limit = percentile_90(lengths)
        too_long = too_long or limit > LIMIT
        verdict = " TOO LONG" if limit > LIMIT else ""
        print(f"{len(text.split()):6} {sum(lengths):6} {len(lengths):9} {limit:4}  {page}{verdict}")
        if chosen.long:
            for sentence, length in sorted(zip(found, lengths, strict=True), key=lambda pair: -pair[1]):
                if length > LIMIT:
                    print(f"       {length}: {sentence}")
    return int(chosen.check and too_long)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
