import errno
import json
import os
import signal
import subprocess
import sys

import pytest
from calling import called

from tlopt import verbs

# Sends itself Ctrl-C when a module is imported, which is deterministic where a clock is not.
INTERRUPTED = """
import builtins, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
real, wanted, left = builtins.__import__, sys.argv[1], int(sys.argv[2])
def imported(name, *rest):
    global left
    if name == wanted and left:
        left -= 1
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *rest)
from tlopt.__main__ import start
builtins.__import__ = imported
sys.argv[1:] = ["list", "models", "pip:*"]
start()
"""


def run(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, **options)


@pytest.mark.parametrize("module", ["tlopt.cli", "click", "fnmatch"])
def test_an_interruption_while_starting_ends_with_130_and_no_traceback(module):
    done = run(INTERRUPTED, module, 1, text=True)
    assert done.returncode == 130
    # It comes when the import is over. Click, which may run by then, begins a line after ^C.
    assert done.stderr.lstrip("\n") == "Interrupted; nothing half-written was left.\n"


ENDED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from tlopt import cli
from tlopt.__main__ import start
from tlopt.publishing import draft
class Root:
    def main(self, *rest, **options):
        with draft(sys.argv[1]) as made:
            (made / "half").write_text("half")
            try:
                os.kill(os.getpid(), int(sys.argv[2]))
                sys.stdin.read(0)
            finally:
                os.kill(os.getpid(), int(sys.argv[2]))  # once more, at once: as from a process group
                sys.stdin.read(0)
                (made / "tidied").write_text("")
cli.root = Root
start()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_asks_a_command_to_end_leaves_nothing_half_written(tmp_path, number):
    done = run(ENDED, tmp_path / "out", int(number), text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (128 + number, "Interrupted; nothing half-written was left.\n")
    assert not list(tmp_path.iterdir())


WRAPPED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from tlopt import cli
from tlopt.__main__ import start
class Root:
    def main(self, *rest, **options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            sys.stdin.read(0)
        except KeyboardInterrupt:
            raise ImportError("half imported")
cli.root = Root
start()
"""


def test_an_interruption_that_a_library_took_for_an_error_ends_with_130():
    done = run(WRAPPED, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (130, "Interrupted; nothing half-written was left.\n")


START = "import sys; from tlopt.__main__ import start; start()"


@pytest.fixture
def named(tmp_path):
    """An artifact whose name and classes Latin-1 lacks."""
    folder = tmp_path / "猫"
    folder.mkdir()
    return folder


def test_names_that_the_output_cannot_show_are_written_with_escapes(named):
    done = run(START, "show", named, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 1
    assert b"\\u732b is not an artifact" in done.stderr
    assert b"Traceback" not in done.stderr
    code = "import sys; from tlopt.cli import terminal; terminal.mend_streams(); print('\\u732b \\udcff')"
    done = run(code, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert done.stdout == b"\\u732b \\udcff\n"
    assert run(code, env={**os.environ, "PYTHONIOENCODING": "utf-8"}).stdout == "猫 \\udcff\n".encode()


@pytest.mark.parametrize("streams", ["1", "0 1 2"])
def test_closed_streams_end_no_command(tmp_path, streams):
    closed = " ".join(f"{number}>&-" for number in streams.split())
    line = f'"$0" -c "$1" list backends {closed}'
    done = subprocess.run(["sh", "-c", line, sys.executable, START], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    code = (
        "import os, sys; from tlopt.cli import terminal; terminal.mend_streams(); open(sys.argv[1], 'w').write('x'); "
    )
    code += "os.write(1, b'from a library'); print('shown')"
    line = f'"$0" -c "$1" "$2" {closed}'
    subprocess.run(["sh", "-c", line, sys.executable, code, tmp_path / "file"], capture_output=True, check=True)
    assert (tmp_path / "file").read_text() == "x"


def test_a_full_output_is_one_error():
    line = '"$0" -c "$1" list backends >/dev/full'
    done = subprocess.run(["sh", "-c", line, sys.executable, START], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: No space left on device\n"


def test_tables_are_never_written_over_what_is_read(tmp_path):
    card = tmp_path / "artifact" / "artifact.json"
    card.parent.mkdir()
    card.write_text(json.dumps({"schema": 1, "lineage": [], "files": {}}))
    done = run(START, "show", card.parent, "--csv", card, text=True)
    assert done.returncode == 2
    assert "belongs to an artifact" in done.stderr
    table = tmp_path / "both"
    done = run(START, "bench", card.parent, "--csv", table, "--markdown", table, text=True)
    assert done.returncode == 2
    assert "the same file" in done.stderr
    done = run(START, "optimize", tmp_path, "--study", f"{table}#mine", "--csv", table, text=True)
    assert done.returncode == 2
    assert "--csv and --study both name" in done.stderr


# A command that says something, prints something and makes something.
MADE = """
import sys
from types import SimpleNamespace
from tlopt import cli, publishing, verbs
from tlopt.errors import CheckError
from tlopt.reports import Report
from tlopt.__main__ import start
kind, out = sys.argv[1:3]
def work(*given, **settings):
    print("from a network" * 1000)
    print("a message", file=sys.stderr, flush=True)
    with publishing.draft(out) as made:
        (made / "whole").write_text("")
    if kind == "report":
        return SimpleNamespace(to_report=lambda: Report(title="t", rows=({"a": 1},), breaches=("too slow",)))
    return lines() if kind == "lines" else None
def lines():
    for number in range(3):
        publishing.write_whole(f"{out}/{number}", "")
        yield "a line" * 1000
verb = verbs.Verb(
    name="work", at="", group=sys.argv[3], summary="", example="", gives=kind
)
verbs.Verb.function = lambda self: work
cli.TABLE = {"work": verb}
sys.argv[1:] = ["work", *sys.argv[4:]]
start()
"""


def made(tmp_path, kind, *arguments, group="Make", stdout="gone", stderr="gone"):
    """Run a command whose streams have no reader or no room; return its exit code and what there is afterwards."""
    out = tmp_path / "out"
    read, gone = os.pipe()
    os.close(read)
    with open(gone, "wb") as pipe, open("/dev/full", "wb") as full:
        streams = {"gone": pipe, "full": full}
        words = [sys.executable, "-c", MADE, kind, out, group, *arguments]
        done = subprocess.run(words, check=False, stdout=streams[stdout], stderr=streams[stderr])
    return done.returncode, {str(file.relative_to(out)) for file in out.rglob("*")}


@pytest.mark.parametrize("stderr", ["gone", "full"])
def test_an_artifact_is_made_though_nobody_reads_what_is_said(tmp_path, stderr):
    assert made(tmp_path, "path", "-o", tmp_path / "out", stderr=stderr) == (0, {"whole"})


@pytest.mark.parametrize(("stdout", "code"), [("gone", 3), ("full", 1)])
def test_tables_are_written_and_gates_hold_though_nobody_reads_the_report(tmp_path, stdout, code):
    files = ["--csv", tmp_path / "a.csv", "--markdown", tmp_path / "a.md"]
    assert made(tmp_path, "report", *files, stdout=stdout) == (code, {"whole"})
    assert (tmp_path / "a.csv").read_text() == "a\n1\n"
    assert (tmp_path / "a.md").exists()


def test_all_steps_are_done_though_nobody_reads_what_became_of_them(tmp_path):
    assert made(tmp_path, "lines") == (0, {"whole", "0", "1", "2"})


def test_what_is_only_shown_ends_when_its_reader_has_gone(tmp_path):
    assert made(tmp_path, "lines", group="Ask") == (0, {"whole", "0"})


def test_a_pipe_that_breaks_in_the_work_is_an_error(capsys, monkeypatch):
    def broken(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(verbs.Verb, "function", lambda _: broken)
    code, _, err = called(capsys, "doctor")
    assert code == 1
    assert "A pipe cannot be written: whoever read it has gone" in err
