import subprocess
import sys

import pytest

# Has itself ended at each line of the package that writes, one after the other, and looks at what is left.
EACH_LINE = """
import os, signal, sys, time
from pathlib import Path
from tlopt import publishing
from tlopt.process import interrupts
from tlopt.publishing import draft, drafts, write_whole
PACKAGE = str(Path(publishing.__file__).parent)
interrupts.listen()
interrupts._LATER_S = 0.001

def ended_at(step, work):
    # Return whether the work has so many lines.
    left = step
    def line(frame, event, arg):
        nonlocal left
        left -= event == "line"
        if left == 0 and event == "line":
            sys.settrace(None)
            os.kill(os.getpid(), signal.SIGTERM)
        return line
    interrupts._seen = 0
    sys.settrace(lambda frame, event, arg: line if frame.f_code.co_filename.startswith(PACKAGE) else None)
    try:
        work()
        while left <= 0:
            time.sleep(1)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return left <= 0

def make():
    with draft("folder/out", force=True) as made:
        write_whole(made / "artifact.json", '{"schema": 1, "lineage": [], "files": {}}')

def write():
    write_whole("folder/out", "whole")

work, before, exchanges = globals()[sys.argv[1]], *map(int, sys.argv[2:])
if not exchanges:
    drafts._exchange = lambda one, other: False
os.mkdir("folder")
step, more = 0, True
while more:
    if before:
        work()
    step += 1
    more = ended_at(step, work)
    left = os.listdir("folder")
    assert left in ([["out"]] if before else [[], ["out"]]), (step, left)
    if not before:
        os.system("rm -rf folder/out")
assert step > 20
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "before", "exchanges"), [("make", 0, 1), ("make", 1, 1), ("make", 1, 0), ("write", 0, 1)]
)
def test_an_interruption_at_any_line_of_what_writes_leaves_nothing_half_written(tmp_path, work, before, exchanges):
    command = [sys.executable, "-c", EACH_LINE, work, str(before), str(exchanges)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# C++ code that takes no exception is played by a module that aborts if it gets one.
IMPORTED = """
import os, signal, time
from tlopt.process import interrupts
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3 * interrupts._LATER_S)
except BaseException:
    os.abort()
"""
IMPORTS = """
import sys, time
from tlopt.process import interrupts
interrupts.listen()
sys.path.insert(0, ".")
try:
    import imported
    while True:
        time.sleep(1)
except KeyboardInterrupt:
    raise SystemExit(interrupts.code())
"""


@pytest.mark.slow
def test_an_interruption_waits_until_a_library_is_imported(tmp_path):
    (tmp_path / "imported.py").write_text(IMPORTED)
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (143, "")


SWALLOWED = """
import os, signal, time
from tlopt.process import interrupts
interrupts.listen()
class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
try:
    Finalized()
    while True:
        time.sleep(1)
except KeyboardInterrupt:
    raise SystemExit(interrupts.code())
"""


@pytest.mark.slow
def test_an_interruption_in_a_finalizer_that_python_passes_over_comes_again():
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (143, "")
