"""Write docs/cli.md from the commands' own help; with --check, fail if it is stale.

python docs/generate.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from tlopt.cli import root

TARGET = Path(__file__).with_name("cli.md")
HEAD = """# Command line

Written by `make docs` from the commands' own `--help`; CI fails if it is stale.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 error, 2 usage, 3 a check failed,
130 interrupted by Ctrl-C, 143 by SIGTERM.
"""


def helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield each command's name and help text, groups before what is in them."""
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from helps(inner, click.Context(inner, context, name, terminal_width=80, max_content_width=80))


def main() -> int:
    """Write or check the page."""
    command = root()
    context = click.Context(command, info_name="tlopt", terminal_width=80, max_content_width=80)
    text = HEAD + "".join(f"\n## {name}\n\n```\n{page}\n```\n" for name, page in helps(command, context))
    if "--check" not in sys.argv:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET} is stale: run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
