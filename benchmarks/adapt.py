"""What `tlopt adapt` brings on images of a worse camera: fp32 and int8, with and without it.

    python benchmarks/adapt.py ARTIFACT [--images FOLDER] [--priors 0,16,64,256] [--strength 2]

ARTIFACT is a fine-tuned torch artifact, FOLDER the images that it was trained on, with their parts. For each
corruption of `evaluate --corruptions`, copies of the validation and test images are written as that camera would give
them. The network adapts to the validation copies, without their labels. The prior is chosen once, by the mean accuracy
of the fp32 network on the validation copies, over all corruptions and the images as they are. Then each network is
judged on the test copies: as it is, adapted, and both quantized to int8.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import tlopt
from tlopt.artifact import Artifact
from tlopt.environment import processor, versions
from tlopt.images.of_artifact import parts_of
from tlopt.measure.corruptions import CORRUPTIONS
from tlopt.reading.pictures import to_rgb, upright

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing10"


def copies(artifact: Artifact, images: Path, name: str, strength: int, work: Path) -> dict[str, Path]:
    """Write the validation and test images as a corruption leaves them, and return their folders."""
    parts = parts_of(artifact, images, labels="all").divided
    found = {}
    for part in ("val", "test"):
        folder = parts[part]
        for i, (file, label) in enumerate(zip(folder.files, folder.labels, strict=True)):
            with Image.open(folder.path / file) as image:
                pixels = np.asarray(to_rgb(upright(image)))
            target = work / name / part / folder.classes[label] / f"{i:05}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels if name == "none" else CORRUPTIONS[name](pixels, strength, i)).save(target)
        found[part] = work / name / part
    return found


def accuracy(artifact: Artifact, images: Path) -> float:
    """Return the share of right answers."""
    return tlopt.evaluate(artifact, images=images, split="all").top1


def int8(artifact: Artifact, images: Path, work: Path, name: str) -> Artifact:
    """Export and quantize, calibrated on some images without their labels."""
    exported = tlopt.export(artifact, work / f"{name}-fp32")
    return tlopt.quantize(exported, work / f"{name}-int8", images=images, samples=128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--images", type=Path, default=SHARED)
    parser.add_argument("--priors", type=lambda text: [float(one) for one in text.split(",")], default=[0, 16, 64, 256])
    parser.add_argument("--strength", type=int, default=2)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["none", *CORRUPTIONS])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    source = Artifact.load(options.artifact)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sets = {name: copies(source, options.images, name, options.strength, work) for name in options.only}
        chosen_on: dict[str, dict[str, float]] = {
            name: {"as it is": accuracy(source, sets[name]["val"])} for name in sets
        }
        adapted = {}
        for prior in options.priors:
            for name, parts in sets.items():
                made = tlopt.adapt(source, work / f"{name}-{prior:g}", images=parts["val"], prior=prior)
                adapted[name, prior] = made
                chosen_on[name][f"{prior:g}"] = accuracy(made, parts["val"])
                print(name, prior, chosen_on[name], flush=True)
        means = {prior: statistics.mean(one[f"{prior:g}"] for one in chosen_on.values()) for prior in options.priors}
        best = max(means, key=lambda prior: means[prior])
        plain = int8(source, sets[options.only[0]]["val"], work, "plain")
        rows: list[dict[str, Any]] = []
        for name, parts in sets.items():
            after = adapted[name, best]
            row = {"images": name, "fp32": accuracy(source, parts["test"]), "int8": accuracy(plain, parts["test"])}
            row["fp32_adapted"] = accuracy(after, parts["test"])
            row["int8_adapted"] = accuracy(int8(after, parts["val"], work, name), parts["test"])
            rows.append(row)
            print(row, flush=True)
    rows.append(
        {"images": "mean", **{key: statistics.mean(row[key] for row in rows) for key in rows[0] if key != "images"}}
    )
    result = {
        "what": "top-1 on test images as a worse camera gives them, with and without adapt",
        "command": f"python benchmarks/adapt.py ARTIFACT --priors {','.join(f'{p:g}' for p in options.priors)} "
        f"--only {','.join(options.only)}",
        "model": source.card.model, "size": source.card.preprocess.size, "device": processor(), "versions": versions(),
        "strength": options.strength, "prior": best, "priors_tried": means, "validation": chosen_on, "rows": rows,
    }  # fmt: skip
    (options.out / "adapt.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
