"""How tlopt behaves when it is killed, fed with damaged or special files, limited, or run twice at once.

    python benchmarks/robustness.py                     everything: about an hour on two cores
    python benchmarks/robustness.py --short             a minute's sample of each campaign, as in CI
    python benchmarks/robustness.py --only kills --kills 40 --seed 7

The campaigns are seeded: the same seed makes the same kills and the same damage. Every trial must end by
itself, in words, with a documented exit code, and with everything whole that was there before. The result
goes to benchmarks/results/robustness.json after each campaign; the exit code is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from campaigns import damage, kills, limits, pairs, special
from campaigns.world import Finding, World, make

from tlopt.environment import cores, processor, versions

RESULT = Path(__file__).parent / "results" / "robustness.json"


def campaigns(arguments: argparse.Namespace, world: World) -> dict[str, Generator[Finding | None]]:
    """Return the trials of each campaign, by name, in the order in which they run."""
    found = {
        "special": special.trials(world, arguments.seed),
        "limits": limits.trials(world, arguments.seed),
        "pairs": pairs.trials(world, arguments.pairs, arguments.seed),
        "mutations": damage.trials(world, arguments.mutations, arguments.seed),
        "kills": kills.trials(world, arguments.kills, arguments.seed),
    }
    return {name: trials for name, trials in found.items() if name in arguments.only}


def run(name: str, trials: Generator[Finding | None], seconds: float) -> dict[str, Any]:
    """Run a campaign, for so many seconds at most, and return its figures."""
    started = warm = time.perf_counter()
    count, found = 0, []
    for finding in trials:
        count += 1
        if finding is not None:
            found.append(finding)
            print(f"  {finding.kind}: {finding.trial}: {finding.text}", flush=True)
        if count == 1:  # it loads the libraries
            warm = time.perf_counter()
        if time.perf_counter() - warm > seconds:
            trials.close()
            break
    kinds = Counter(finding.kind for finding in found)
    print(f"{name}: {count} trials, {len(found)} findings {dict(kinds)}", flush=True)
    return {
        "trials": count,
        "seconds": round(time.perf_counter() - started, 1),
        **{kind: kinds[kind] for kind in ("lost", "unexpected", "hang", "wrong", "left")},
        "findings": [vars(finding) for finding in found],
    }


def main() -> int:
    """Run the campaigns and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--mutations", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="A sample of each campaign, in about a minute.")
    parser.add_argument("--only", nargs="+", default=["special", "limits", "pairs", "mutations", "kills"])
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    seconds = float("inf")
    if arguments.short:
        seconds, arguments.kills, arguments.mutations, arguments.pairs = 10.0, 4, 120, 2
    with tempfile.TemporaryDirectory(prefix="robustness-") as folder:
        world = make(Path(folder))
        results = {}
        for name, trials in campaigns(arguments, world).items():
            results[name] = run(name, trials, seconds)
            if not arguments.short:
                _write(arguments, results)
    total = sum(len(result["findings"]) for result in results.values())
    return 1 if total else 0


def _write(arguments: argparse.Namespace, results: dict[str, dict[str, Any]]) -> None:
    words = [f"--{name} {getattr(arguments, name)}" for name in ("kills", "mutations", "pairs", "seed")]
    command = f"python benchmarks/robustness.py --only {' '.join(arguments.only)} {' '.join(words)}"
    how = {"command": command, "processor": processor(), "cores": cores(), "versions": versions()}
    known = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    # Campaigns that were not asked for keep what an earlier run found, and how.
    made = {"campaigns": {**known.get("campaigns", {}), **{name: how | one for name, one in results.items()}}}
    arguments.out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
