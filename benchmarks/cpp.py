"""The C++ program of `tlopt deploy --for cpp` beside tlopt itself: the same pixels, the same answers, and how fast.

    python benchmarks/cpp.py [--images ../shared/data/clothing10] [--number 200] [--odd 200] [--runtime openvino]

An EfficientNet-Lite0 with ImageNet weights is exported, deployed and compiled here. First, odd image files (every
color type of PNG, JPEG in its variants, every orientation, sides of 1 to 4,000 pixels) go through both: decoded
pixels, resized pixels, logits and the best class are compared. Then photos go through both on one thread, one at a
time, in turns: milliseconds of decoding, of resizing and normalizing, and of the network, and processor time of all;
medians over the rounds. A new process of each classifies one photo. The results say which libraries decoded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from odd_images import odd_images
from PIL import Image, features

import tlopt
from tlopt.artifact import Artifact
from tlopt.backends import open_runner
from tlopt.deployment.cpp import building
from tlopt.deployment.cpp.program import numbers, pictures, run
from tlopt.environment import processor, versions
from tlopt.publishing import write_whole
from tlopt.reading.image_files import read_image
from tlopt.reading.pictures import to_rgb, upright

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing10"
MODEL = "pip:efficientnet_lite0"
_CHUNK = 20  # files that the program is given at once: decoded, they are large


def answers(program: Path, model: Path, images: Sequence[Path]) -> np.ndarray:
    """Return what the program answers, float32 (n, classes)."""
    return numbers(run(program, ["--model", model, "--threads", "1", "--numbers", *images]))


def compare(program: Path, model: Path, artifact: Artifact, runtime: str, images: Sequence[Path]) -> dict[str, Any]:
    """Return on how many odd images pixels and answers are the same."""
    preprocess, resized_alike = artifact.card.preprocess, 0
    decoded_alike, wanted, largest_step = [], [], 0
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        decoded = pictures(run(program, ["--decoded", *chunk]))
        resized = pictures(run(program, ["--model", model, "--pixels", *chunk]))
        for path, raw, pixels in zip(chunk, decoded, resized, strict=True):
            ours = np.asarray(to_rgb(upright(read_image(path))))
            decoded_alike.append(np.array_equal(ours, raw))
            if not decoded_alike[-1]:
                largest_step = max(largest_step, int(np.abs(ours.astype(int) - raw).max()))
                print(f"decoded otherwise: {path.name}", flush=True)
            resized_alike += np.array_equal(preprocess.pixels(Image.fromarray(raw)), pixels)
            wanted.append(preprocess.pixels(Image.fromarray(ours)))
    with open_runner(artifact, runtime, threads=1) as runner:
        logits = np.concatenate([runner(preprocess.normalize(pixels[None])) for pixels in wanted])
    said = answers(program, model, images)
    difference = np.abs(said - logits).max(axis=1)
    alike = np.array(decoded_alike)
    return {
        "images": len(images),
        "decoded_alike": int(alike.sum()),
        "resized_alike": resized_alike,
        "largest_step_of_other_pixels": largest_step,
        "largest_difference_of_logits": float(difference[alike].max()),
        "largest_difference_of_logits_of_all": float(difference.max()),
        "same_best_class": int((said.argmax(1) == logits.argmax(1)).sum()),
    }


def ours(artifact: Artifact, runtime: str, images: Sequence[Path]) -> dict[str, float]:
    """Return tlopt's mean milliseconds of each part, one photo after the other on one thread."""
    preprocess, taken = artifact.card.preprocess, {"decoding": 0.0, "resizing": 0.0, "network": 0.0}
    with open_runner(artifact, runtime, threads=1) as runner:
        runner(preprocess(images[0])[None])
        for path in images:
            times = [time.perf_counter()]
            image = upright(read_image(path))
            times.append(time.perf_counter())
            inputs = preprocess.normalize(preprocess.pixels(image)[None])
            times.append(time.perf_counter())
            runner(inputs)
            times.append(time.perf_counter())
            for name, spent in zip(taken, np.diff(times), strict=True):
                taken[name] += spent * 1e3 / len(images)
    return taken


def theirs(program: Path, model: Path, images: Sequence[Path]) -> dict[str, float]:
    """Return the program's mean milliseconds of each part."""
    command = [str(program), "--model", str(model), "--threads", "1", "--timing", "--top", "1", *map(str, images)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {name: float(value) for name, value in re.findall(r"(\w+) ([\d.]+) ms", said)}


def spent(command: Sequence[str | Path]) -> tuple[float, float]:
    """Return how long a command takes, and its processor time, seconds."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, cwd=tempfile.gettempdir())
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the rounds, and of their sum."""
    found = {f"{name}_ms": statistics.median(one[name] for one in rounds) for name in rounds[0]}
    total = statistics.median(sum(one.values()) for one in rounds)
    return {**{name: round(value, 3) for name, value in found.items()}, "total_ms": round(total, 3)}


def make(folder: Path, given: Path | None) -> Artifact:
    """Return the artifact given, or the exported network."""
    if given is not None:
        return Artifact.load(given)
    return tlopt.export(tlopt.import_model(None, folder / "torch", model=MODEL), folder / "fp32")


def speeds(
    folder: Path, program: Path, artifact: Artifact, runtime: str, images: Sequence[Path], rounds: int
) -> dict[str, Any]:
    """Return the speed of both: medians over the rounds, in which they take turns."""
    model = folder / "cpp" / "model"
    predict: list[str | Path] = [
        sys.executable,
        "-m",
        "tlopt",
        "predict",
        "--backend",
        runtime,
        "--threads",
        "1",
        artifact.path,
    ]
    classify: list[str | Path] = [program, "--model", model, "--threads", "1"]
    taken: dict[str, list[dict[str, float]]] = {"python": [], "cpp": []}
    first: dict[str, list[tuple[float, float]]] = {"python": [], "cpp": []}
    processor_ms: dict[str, list[float]] = {"python": [], "cpp": []}
    for _ in range(rounds):
        first["python"].append(spent([*predict, images[0]]))
        first["cpp"].append(spent([*classify, images[0]]))
        begin = time.process_time()
        taken["python"].append(ours(artifact, runtime, images))
        processor_ms["python"].append((time.process_time() - begin) * 1e3 / len(images))
        taken["cpp"].append(theirs(program, model, images))
        all_of_them = spent([*classify, *images])[1]
        processor_ms["cpp"].append((all_of_them - first["cpp"][-1][1]) * 1e3 / (len(images) - 1))
    return {
        name: {
            **medians(taken[name]),
            "processor_ms": round(statistics.median(processor_ms[name]), 3),
            "first_answer_s": round(statistics.median(wall for wall, _ in first[name]), 3),
            "first_answer_processor_s": round(statistics.median(used for _, used in first[name]), 3),
        }
        for name in taken
    }


def about(artifact: Artifact, arguments: argparse.Namespace, program: Path, part: str) -> dict[str, Any]:
    """Return the conditions."""
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    options = " ".join(f"--{name} {getattr(arguments, name)}" for name in part.split())
    return {
        "command": f"python benchmarks/cpp.py {options}",
        "device": processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "versions": versions(),
        "decoders": {
            "python": {"libjpeg-turbo": features.version("libjpeg_turbo")},
            "cpp": sorted(set(re.findall(r"(lib(?:jpeg|png\w*|z)\.so\S*)", linked))),
        },
        "runtime": arguments.runtime,
        "model": artifact.card.model,
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SHARED)
    parser.add_argument("--number", type=int, default=200, help="photos to time; 0 for none")
    parser.add_argument("--odd", type=int, default=200, help="odd images to compare; 0 for none")
    parser.add_argument("--largest", type=int, default=4000, help="longest side of odd images, pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runtime", choices=("openvino", "onnxruntime"), default="openvino")
    parser.add_argument("--artifact", type=Path, help="an onnx artifact. Default: an EfficientNet-Lite0")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    arguments = parser.parse_args()
    found = sorted(p for p in arguments.images.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    step = max(1, len(found) // max(1, arguments.number))
    photos = [path.resolve() for path in found[::step][: arguments.number]]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        artifact = make(folder, arguments.artifact)
        tlopt.deploy([artifact], folder / "cpp", for_="cpp", backend=arguments.runtime, check=False)
        program = building.build(folder / "cpp", folder / "build", arguments.runtime)
        (folder / "odd").mkdir()
        images = []
        for odd in odd_images(arguments.odd, largest=arguments.largest):
            images.append(folder / "odd" / odd.name)
            images[-1].write_bytes(odd.content)
        results: dict[str, dict[str, Any]] = {}
        if images:
            same = compare(program, folder / "cpp" / "model", artifact, arguments.runtime, images)
            results["cpp-pixels"] = {**about(artifact, arguments, program, "odd largest runtime"), "odd_images": same}
        if len(photos) > 1:
            speed = speeds(folder, program, artifact, arguments.runtime, photos, arguments.rounds)
            results["cpp-speed"] = {**about(artifact, arguments, program, "number rounds runtime"), "one_thread": speed}
    for name, result in results.items():
        write_whole(arguments.out / f"{name}.json", json.dumps(result, indent=2) + "\n")
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
