"""Time that `finetune` takes with its defaults, beside another version of tlopt, in turns.

    python benchmarks/versions.py BEFORE [--sets A,B] [--seeds 0,1,2] [--size 96] [--rounds 1] [--out …]
        [--data ../shared/data] [--more DIR]

BEFORE is a checkout of the other version: `git worktree add BEFORE COMMIT`. Both run as commands of their own,
with the same Python, libraries and images. Which of them runs first changes from pair to pair. Seconds are processor
time of one thread, from the start of the command to its end. Sets are those of effort.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from effort import MODEL, drawn

from tlopt.environment import processor, versions
from tlopt.publishing import write_whole

NOW = Path(__file__).resolve().parents[1]


def seconds(checkout: Path, images: Path, folder: Path, seed: int, size: int) -> float:
    """Return the processor seconds of one fine-tuning by the tlopt of a checkout.

    Raises:
        SystemExit: It failed; its last words.
    """
    command = [
        sys.executable, "-m", "tlopt", "finetune", str(images), "-o", str(folder / "out"), "--model", MODEL,
        "--image-size", str(size), "--seed", str(seed), "--cache-dir", str(folder / "cache"),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} of {checkout} failed:\n{log.read()[-2000:]}")
    return used.ru_utime + used.ru_stime


def interval(ratios: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the geometric mean of ratios, by the bootstrap."""
    draws = np.random.default_rng(0).choice(np.log(ratios), (10_000, len(ratios))).mean(axis=1)
    low, high = np.exp(np.quantile(draws, (0.025, 0.975))).tolist()
    return low, high


def table(result: dict[str, Any]) -> str:
    """Return the runs as a table, means over a set, and the ratio of all."""
    lines = [
        "# Time of fine-tuning, beside another version", "",
        f"{result['device']}, one thread; torch {result['versions']['torch']}; EfficientNet-Lite0. "
        f"`{result['command']}`. Ratio: the time of {result['now']} divided by that of {result['before']}.", "",
        "| set | pairs | seconds before | seconds now | ratio, geometric mean |", f"{'|---' * 5}|",
    ]  # fmt: skip
    for name in dict.fromkeys(run["set"] for run in result["runs"]):
        runs = [run for run in result["runs"] if run["set"] == name]
        before, now = (statistics.mean(run[which] for run in runs) for which in ("before", "now"))
        ratio = statistics.geometric_mean(run["now"] / run["before"] for run in runs)
        lines.append(f"| {name} | {len(runs)} | {before:.1f} | {now:.1f} | {ratio:.3f} |")
    ratios = [run["now"] / run["before"] for run in result["runs"]]
    low, high = interval(ratios)
    over = f"{statistics.geometric_mean(ratios):.3f} ({low:.3f} to {high:.3f})"
    return "\n".join([*lines, "", f"All: {over}, geometric mean and 95 % interval of {len(ratios)} pairs."]) + "\n"


def commit(checkout: Path) -> str:
    """Return the commit of a checkout, short."""
    return subprocess.run(
        ["git", "-C", checkout, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


def main() -> None:
    """Do the pairs that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("--sets", default="clothing10-40,signdigits6-30,elpv-100")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data", type=Path, default=NOW.parent / "shared" / "data")
    parser.add_argument("--more", type=Path)
    parser.add_argument("--out", type=Path, default=NOW / "benchmarks" / "results" / "finetune-versions.json")
    options = parser.parse_args()
    if not (options.before / "tlopt").is_dir():
        parser.error(f"{options.before} is no checkout of tlopt: git worktree add BEFORE COMMIT")
    places = [place for place in (options.data, options.more) if place]
    command = f"python benchmarks/versions.py BEFORE --sets {options.sets} --seeds {options.seeds}"
    command += f" --size {options.size} --rounds {options.rounds}{' --more MORE' if options.more else ''}"
    result: dict[str, Any] = {
        "command": command, "before": commit(options.before), "now": commit(NOW),
        "device": processor(), "versions": versions(), "runs": [],
    }  # fmt: skip
    if options.out.exists():
        result["runs"] = json.loads(options.out.read_text())["runs"]
    done = {(run["set"], run["seed"], run["round"]) for run in result["runs"]}
    checkouts = {"before": options.before.resolve(), "now": NOW}
    keys = [
        (s, int(e), r) for r in range(options.rounds) for e in options.seeds.split(",") for s in options.sets.split(",")
    ]
    for name, seed, turn in (key for key in keys if key not in done):
        run: dict[str, Any] = {"set": name, "seed": seed, "round": turn}
        order = list(checkouts) if len(result["runs"]) % 2 else list(checkouts)[::-1]
        for which in order:
            with tempfile.TemporaryDirectory() as folder:
                images = drawn(name, seed, places, Path(folder))
                run[which] = round(seconds(checkouts[which], images, Path(folder), seed, options.size), 2)
        result["runs"].append(run)
        print(run, flush=True)
        write_whole(options.out, json.dumps(result, indent=1) + "\n")
        write_whole(options.out.with_suffix(".md"), table(result))


if __name__ == "__main__":
    main()
