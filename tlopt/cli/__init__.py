"""The command line: one Click command per public function, made from its signature."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, NoReturn

import click

from tlopt import __version__
from tlopt.cli import commands, terminal
from tlopt.cli.layout import SETTINGS, options, shell, two_columns
from tlopt.errors import TloptError, suggestion
from tlopt.process import interrupts
from tlopt.reading.names import shown
from tlopt.verbs import GROUPS, TABLE, WORDS, Verb

_LESS = "Try a smaller --batch or --image-size."
_CODES = "Exit codes: 0 done, 1 error, 2 usage, 3 check failed, 130 Ctrl-C, 143 SIGTERM."


class Group(click.Group):
    """A group whose commands are made, and the modules behind them imported, when they are asked for.

    Args:
        table: What the user types after the group's name -> the verb.
    """

    def __init__(self, table: dict[str, Verb], **given: Any) -> None:
        super().__init__(context_settings=SETTINGS, no_args_is_help=True, **given)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, in the order of the work."""
        return list(dict.fromkeys(name.partition(" ")[0] for name in self._table))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        """Make a command, or a group of the commands whose names begin with the word."""
        if name in self._table:
            return commands.make(self._table[name])
        inner = {key.partition(" ")[2]: verb for key, verb in self._table.items() if key.startswith(f"{name} ")}
        return Group(inner, name=name, help=WORDS[name]) if inner else None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, and the options below them."""
        self.format_commands(ctx, formatter)
        options(self.get_params(ctx), formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands under their groups' headings, with their summaries."""
        column = max(map(len, self._table))
        used = [group for group in GROUPS if any(verb.group == group for verb in self._table.values())]
        for group in used:
            rows = [(name, verb.summary) for name, verb in self._table.items() if verb.group == group]
            with formatter.section(group if len(used) > 1 else "Commands"):
                two_columns(formatter, rows, column)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write an example and what the exit codes mean."""
        if ctx.parent is not None:
            return
        with formatter.section("Example"):
            formatter.write(shell(TABLE["finetune"].example, formatter.width - 2, 2))
        formatter.write_paragraph()
        formatter.write(f"{_CODES}\n")

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; click itself would take a reader of the output that has gone for an error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise terminal.ReaderGoneError from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown name gets its close match."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(
                f"There is no command {args[0]!r}. {suggestion(args[0], self.list_commands(ctx))}", ctx
            )
        return super().resolve_command(ctx, args)


def root() -> click.Group:
    """Return the ``tlopt`` command with all the others below it."""
    group = Group(
        TABLE,
        name="tlopt",
        help="From a folder of images and a pretrained CNN to a verified, benchmarked engine.",
        params=commands.common_options(),
    )
    return click.version_option(__version__, prog_name="tlopt")(group)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 error, 2 usage, 3 a check failed, 130 Ctrl-C, 143 SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Python processes that a library starts are not to search the current folder for modules.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    terminal.mend_streams()
    try:
        result = root().main(arguments, prog_name="tlopt", standalone_mode=False)
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0
        if interrupts.seen():  # it came too late for the work, or a library passed over it
            code = _interrupted()
    except click.UsageError as error:
        terminal.complain_of_usage(error)
        code = error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = _interrupted()
    except (BrokenPipeError, terminal.ReaderGoneError):
        # The reader of our output has gone (`tlopt list models | head`): no error of ours.
        code = 0
    except TloptError as error:
        code = _fail(error.message, error.hint, error.exit_code, arguments)
    except OSError as error:
        code = _fail(
            f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error),
            "",
            1,
            arguments,
        )
    except MemoryError as error:
        code = _fail(f"There is not enough memory: {error}".rstrip(": "), _LESS, 1, arguments)
    except Exception as error:  # noqa: BLE001 - the last boundary: a bug of ours, told without a traceback
        message = f"{type(error).__name__}: {error}"
        code = _fail(f"Unexpected failure: {message}", "Run again with --debug and report the traceback.", 1, arguments)
    interrupts.ignore()
    terminal.drop_unwritable()
    interrupts.leave(code)


def _interrupted() -> int:
    terminal.complain("Interrupted; nothing half-written was left.")
    return interrupts.code()


def _fail(message: str, hint: str, code: int, arguments: list[str]) -> int:
    if interrupts.seen():
        return _interrupted()  # which a library took for an error of its own
    if "--debug" in arguments:
        click.echo(shown(traceback.format_exc()), err=True, nl=False)
    terminal.complain(f"Error: {message}")
    if hint:
        terminal.complain(f"Hint: {hint}")
    return code
