"""Put the solar-cell photos of the package elpv-dataset into class folders.

A cell is called defective when its probability of a defect is above one half. The photos stay as
they are; they are under CC BY-NC-SA 4.0 (https://github.com/zae-bayern/elpv-dataset).

    python examples/solar_cells.py build/solar-cells
"""

from __future__ import annotations

import csv
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path


def main(target: Path) -> None:
    """Make ``target/sound`` and ``target/defective``; does nothing if they are there."""
    if target.exists():
        print(f"{target} is there already", file=sys.stderr)
        return
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        sys.exit("The photos are not installed: python -m pip install elpv-dataset")
    data = Path(spec.origin).parent / "data"
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent))
    for name in ("sound", "defective"):
        (scratch / name).mkdir()
    with (data / "labels.csv").open(encoding="utf-8") as file:
        for path, probability, *_ in csv.reader(file, delimiter=" ", skipinitialspace=True):
            name = "defective" if float(probability) > 0.5 else "sound"
            shutil.copy(data / path, scratch / name)
    scratch.chmod(0o755)
    scratch.rename(target)
    counts = ", ".join(f"{len(list(folder.iterdir()))} {folder.name}" for folder in sorted(target.iterdir()))
    print(f"{target}: {counts}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/solar-cells"))
