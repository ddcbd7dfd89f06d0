"""Run a command and draw what a terminal shows of it, as an SVG.

python docs/record.py docs/pictures/show.svg tlopt show runs/int8
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 96


def main(target: Path, command: list[str]) -> int:
    """Draw the command, then its output; return its exit code."""
    environment = {**os.environ, "COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
    )
    said = done.stdout.replace(f"{Path.cwd()}/", "~/")  # where it was run is of no interest
    widest = max(map(len, said.splitlines()), default=0)
    console = Console(record=True, width=max(WIDTH, widest + 1), file=io.StringIO())
    console.print(Text(f"$ {' '.join(command)}", style="bold"))
    console.print(Text.from_ansi(said.rstrip()))
    # No title and no fonts from elsewhere: the picture loads nothing.
    svg = console.export_svg(title=" ")
    target.write_text(without_fonts(svg), encoding="utf-8")
    return done.returncode


def without_fonts(svg: str) -> str:
    """Return the picture without the web fonts that rich names; the reader's own fixed-width font is used."""
    while "@font-face" in svg:
        start = svg.index("@font-face")
        svg = svg[:start] + svg[svg.index("}", start) + 1 :]
    return svg.replace("Fira Code, monospace", "monospace")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
