"""How long the command line takes to answer, and how much disk each extra takes.

    python benchmarks/footprint.py            writes benchmarks/results/footprint.json and prints a table

Start-up: whole processes, the median of 20 runs each, interleaved. Size: the files that the installed
packages record, of tlopt's own requirements and of what each extra adds to them.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from packaging.requirements import Requirement

from tlopt.environment import cores, processor, versions
from tlopt.publishing import write_whole

RUNS = 20
COMMANDS = (["--help"], ["prune", "--help"], ["finetune", "--help"], ["list", "backends"])
EXTRAS = ("cpu", "rtx", "demo", "audit", "parquet", "dev")


def start_up() -> dict[str, float]:
    """Return command -> median seconds of the whole process."""
    seconds: dict[str, list[float]] = {" ".join(command): [] for command in COMMANDS}
    for run in range(RUNS + 1):
        for command in COMMANDS:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-P", "-m", "tlopt", *command], check=True, capture_output=True)
            if run:  # the first warms the file cache
                seconds[" ".join(command)].append(time.perf_counter() - started)
    return {name: round(statistics.median(values), 3) for name, values in seconds.items()}


def closure(names: set[str]) -> set[str]:
    """Return the installed packages that these and their requirements make up."""
    found: set[str] = set()
    waiting = {canonical(name) for name in names}
    while waiting:
        name = waiting.pop()
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for line in requires:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting |= {canonical(requirement.name)} - found
    return found


def canonical(name: str) -> str:
    """Return a package's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def size_mb(packages: set[str]) -> float:
    """Return the size of the files that packages installed, 10^6 bytes."""
    total = 0
    for name in packages:
        for file in importlib.metadata.files(name) or []:
            path = Path(str(file.locate()))
            total += path.stat().st_size if path.exists() else 0
    return round(total / 1e6, 1)


def sizes() -> dict[str, float]:
    """Return the size of the base, and of what each extra adds to it, 10^6 bytes."""
    lines = [Requirement(line) for line in importlib.metadata.requires("tlopt") or []]
    base = closure({r.name for r in lines if r.marker is None})
    found = {"(none)": size_mb(base)}
    for extra in EXTRAS:
        named = {r.name for r in lines if r.marker is not None and r.marker.evaluate({"extra": extra})}
        found[extra] = size_mb(closure(named) - base)
    return found


def main() -> None:
    """Measure, print and write."""
    result = {
        "command": "python benchmarks/footprint.py",
        "processor": processor(),
        "cores": cores(),
        "versions": versions(),
        "start_up_seconds": start_up(),
        "size_mb": sizes(),
    }
    target = Path(__file__).parent / "results" / "footprint.json"
    target.parent.mkdir(exist_ok=True)
    write_whole(target, json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("start_up_seconds", "size_mb")}, indent=1))


if __name__ == "__main__":
    main()
