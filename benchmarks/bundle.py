"""How large a bundle's packages are, and how long it takes to its first answer.

    python benchmarks/bundle.py [--model pip:efficientnet_lite0] [--runs 9]

For each runtime a bundle is deployed, and an environment is made with its requirements and nothing else, once by the
steps of its Dockerfile and once by plain pip. "First answer" is a whole run of ``predict.py`` on one
image, from the start of Python to its end: the median of the runs, by the clock and in processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tlopt.environment import cores, processor, versions

RUNTIMES = ("onnxruntime", "openvino")
RESULTS = Path(__file__).parent / "results"


def size_mb(folder: Path) -> float:
    """Return the size of the packages that were installed, without pip itself, 10^6 bytes."""
    own = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
    files = (file for top in folder.iterdir() if not top.name.startswith(own) for file in (top, *top.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink()) / 1e6


def environment_of(place: Path) -> dict[str, str]:
    """Make a Python environment, and return the variables with which a shell finds it first."""
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def docker_steps(bundle: Path) -> str:
    """Return the steps by which the Dockerfile of a bundle installs its packages, without the user that it adds."""
    text = (bundle / "Dockerfile").read_text(encoding="utf-8").replace(" \\\n", " ")
    run = next(line.removeprefix("RUN ") for line in text.splitlines() if line.startswith("RUN pip install"))
    return " && ".join(step for step in run.split(" && ") if "useradd" not in step.split()[0])


def install(steps: str, bundle: Path, environment: dict[str, str]) -> None:
    subprocess.run(["sh", "-ec", steps], check=True, capture_output=True, cwd=bundle, env=environment)


def first_answer(bundle: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Return the seconds of one answer, by the clock and of a processor."""
    image = next((bundle / "selfcheck").glob("*.png"))
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(["python", bundle / "predict.py", image], check=True, capture_output=True, env=environment)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(runtime: str, exported: Any, work: Path, runs: int) -> dict[str, Any]:
    """Return the row of a runtime."""
    import tlopt

    bundle = work / f"bundle-{runtime}"
    tlopt.deploy(exported, bundle, for_="bundle", backend=runtime)
    packages = []
    for name, steps in (("image", docker_steps(bundle)), ("plain", "python -m pip install -r requirements.txt")):
        environment = environment_of(work / f"{name}-{runtime}")
        install(steps, bundle, environment)
        packages.append(size_mb(next((work / f"{name}-{runtime}").glob("lib/python*/site-packages"))))
    in_image, plain = packages
    first_answer(bundle, environment)  # the files are read into memory
    took = [first_answer(bundle, environment) for _ in range(runs)]
    return {
        "runtime": runtime, "bundle_mb": size_mb(bundle), "packages_mb": in_image,
        "packages_by_plain_pip_mb": plain,
        "first_answer_s": statistics.median(seconds for seconds, _ in took),
        "first_answer_processor_s": statistics.median(seconds for _, seconds in took),
        "first_answers_s": [seconds for seconds, _ in took],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pip:efficientnet_lite0")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    import tlopt

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        exported = tlopt.export(tlopt.import_model(None, work / "network", model=given.model), work / "fp32")
        rows = [measured(runtime, exported, work, given.runs) for runtime in RUNTIMES]
        size = exported.card.preprocess.size
    result = {
        "what": "size of a bundle's packages, and a whole run of predict.py on one image; medians",
        "command": f"python benchmarks/bundle.py --model {given.model} --runs {given.runs}", "size": size,
        "processor": processor(), "cores": cores(), "load_before": load, "versions": versions(), "rows": rows,
    }  # fmt: skip
    (given.out / "bundle.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
