"""Peak memory of int8 quantization: does it stay the same however many images calibrate?

    python benchmarks/quantize_memory.py --images ../shared/data/clothing10

Runs `tlopt quantize` on ResNet-50 at 224 px as a process of its own, once for each number of calibration images, and
takes the largest resident memory that the system counted for it (VmHWM): calibration, rounding of the weights, and the
measurement of both networks at the end are in it. Needs the weights in ../shared/weights.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from int8_judge import RESULTS
from quantize import source

from tlopt.environment import cores, processor, versions
from tlopt.publishing import write_whole

SAMPLES = (128, 512)


def peak_mb(command: list[str]) -> tuple[float, float]:
    """Run a command and return its peak resident memory, MB, and its seconds.

    The system keeps the peak (VmHWM) while the process lives; it is read until the end. What `wait4` gives instead
    includes the peak of this process, from which the other one is forked.

    Raises:
        RuntimeError: It failed.
    """
    started, peak = time.perf_counter(), 0.0
    with subprocess.Popen(command) as child:
        while child.poll() is None:
            status = Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8")
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                peak = float(found[1]) / 1024
            time.sleep(0.05)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    return peak, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--samples", default=",".join(map(str, SAMPLES)))
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fp32 = source(given.model, None, folder)
        for samples in map(int, given.samples.split(",")):
            command = [
                sys.executable, "-P", "-m", "tlopt", "quantize", str(fp32.path), "-o", str(folder / f"int8-{samples}"),
                "--images", str(given.images), "--samples", str(samples), "--quiet",
            ]  # fmt: skip
            peak, seconds = peak_mb(command)
            rows.append({"samples": samples, "peak_mb": round(peak), "seconds": round(seconds, 1)})
            print(rows[-1], flush=True)
    result = {
        "command": f"python benchmarks/quantize_memory.py --images {given.images} --model {given.model} "
        f"--samples {given.samples}",
        "model": given.model, "size": fp32.card.preprocess.size, "processor": processor(), "threads": cores(),
        "versions": versions(), "rows": rows,
    }  # fmt: skip
    write_whole(RESULTS / f"quantize-memory-{given.model}.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
