"""How tests call the command line: in this process, as a user would type it."""

from __future__ import annotations

import pytest

from tlopt.cli import main


def called(capsys, *arguments):
    """Run the command line; return exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return caught.value.code, out.out, out.err
