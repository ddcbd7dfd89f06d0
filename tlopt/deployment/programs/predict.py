"""Classify images: python predict.py IMAGE|FOLDER...

From Python, with this folder on the search path:

    from predict import Classifier
    Classifier().classify(["image.jpg"])   # [[("cat", 0.98), ("dog", 0.02)]]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

sys.dont_write_bytecode = True  # this folder stays as it is
HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))
try:
    import numpy as np
    from decoding import (
        ANSWERS,
        MOST_THREADS,
        PREPROCESS,
        ImagesError,
        below,
        exit_code,
        one_line,
        probabilities,
        read_image,
        shown_name,
    )
    from runtime import Network
except ImportError as error:
    raise SystemExit(
        f"{error}. Install what this needs: python -m pip install -r {HERE / 'requirements.txt'}"
    ) from error


class BundleError(Exception):
    """A file of this folder is missing or damaged, or the runtime does not open or run the network here."""


def _unusable(folder: Path, error: Exception) -> BundleError:
    """Return the error for a folder of which something cannot be read."""
    hint = getattr(error, "hint", "Unpack it again, or make it again")
    if isinstance(error, ImportError):
        hint = f"Install what it needs: python -m pip install -r {folder / 'requirements.txt'}"
    return BundleError(f"{folder} cannot be used: {one_line(error)}. {hint}.")


class Classifier:
    """The network with its class names."""

    def __init__(self, folder: Path = HERE, *, threads: int = 0) -> None:
        """Load the network.

        Args:
            folder: The bundle.
            threads: Processor threads of a run; 0 for one per core.

        Raises:
            BundleError: It cannot be loaded.
        """
        try:
            about = json.loads((folder / "network.json").read_text(encoding="utf-8"))
            self.labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
            self.fixed_batch, self.max_batch = int(about["fixed_batch"]), int(about["max_batch"])
            if not 0 <= self.fixed_batch <= self.max_batch or not self.max_batch:
                raise ValueError(f"fixed_batch is {self.fixed_batch} and max_batch {self.max_batch} in network.json")
            self._network = Network(folder / about["file"], threads=threads, settings=about["settings"])
        except Exception as error:  # each runtime has errors of its own
            raise _unusable(folder, error) from error

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return what the network answers, float32 (n, classes).

        Args:
            pixels: uint8 (n, size, size, 3), RGB, as `PREPROCESS.pixels` gives them.

        Raises:
            BundleError: The runtime fails.
        """
        found = [np.zeros((0, len(self.labels)), np.float32)] if len(pixels) == 0 else []
        for first in range(0, len(pixels), self.max_batch):
            part = pixels[first : first + self.max_batch]
            missing = max(0, self.fixed_batch - len(part))
            filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            found.append(self._run(PREPROCESS.normalize(filled))[: len(part)])
        return np.concatenate(found)

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        """Return what the runtime answers, float32 (n, classes), or its failure as a `BundleError`."""
        try:
            answers: np.ndarray = self._network(inputs)
        except Exception as error:  # each runtime has errors of its own
            hint = f" {error.hint}." if hasattr(error, "hint") else ""
            raise BundleError(f"The network does not run here: {one_line(error)}.{hint}") from error
        if answers.ndim != 2 or len(answers) != len(inputs):
            raise BundleError(f"The network answers with numbers of shape {answers.shape}.")
        return answers

    def classify(self, images: Iterable[str | Path | IO[bytes]], *, top: int = 5) -> list[list[tuple[str, float]]]:
        """Return the most probable classes of each image with their probabilities, best first.

        Args:
            images: Paths of image files, or open binary files.
            top: How many classes.

        Raises:
            ImagesError: An image cannot be read.
            BundleError: The runtime fails, or the network answers with no finite numbers.
        """
        pixels = [PREPROCESS.pixels(read_image(image)) for image in images]
        return self.named(self.logits(np.stack(pixels)), top) if pixels else []

    def named(self, logits: np.ndarray, top: int) -> list[list[tuple[str, float]]]:
        """Return the most probable classes that logits, (n, classes), say.

        Raises:
            BundleError: There are not as many names as classes, or they are no finite numbers.
        """
        if logits.shape[1] != len(self.labels):
            raise BundleError(f"labels.txt names {len(self.labels)} classes, and the network has {logits.shape[1]}.")
        if not np.isfinite(logits).all():
            raise BundleError("The network answers with numbers that are not finite (NaN or infinity).")
        shares = probabilities(logits, ANSWERS)
        orders = np.argsort(-shares, axis=1, kind="stable")[:, :top]
        return [
            [(self.labels[i], round(float(row[i]), 6)) for i in order]
            for row, order in zip(shares, orders, strict=True)
        ]


def found(paths: Iterable[str]) -> Iterator[Path]:
    """Yield the images that paths of files and folders name.

    Raises:
        OSError: A folder cannot be read.
    """
    for path in map(Path, paths):
        if path.is_dir():
            yield from (path / name for name in sorted(below(path, path)))
        else:
            yield path


def classify(classifier: Classifier, files: Sequence[Path], *, top: int, as_json: bool) -> int:
    """Print a line for each image; return 1 if one could not be read, else 0."""
    failed = 0
    for first in range(0, len(files), classifier.max_batch):
        kept, pixels = [], []
        for file in files[first : first + classifier.max_batch]:
            try:
                pixels.append(PREPROCESS.pixels(read_image(file)))
                kept.append(file)
            except ImagesError as error:
                failed = 1
                print(f"left out: {shown_name(error)}", file=sys.stderr)
        answers = classifier.named(classifier.logits(np.stack(pixels)), top) if kept else []
        for file, best in zip(kept, answers, strict=True):
            if as_json:
                print(json.dumps({"file": str(file), "top": [{"class": n, "probability": p} for n, p in best]}))
            else:
                print(f"{shown_name(file)}\t" + ", ".join(f"{shown_name(name)} {share:.3f}" for name, share in best))
    return failed


def self_check(classifier: Classifier) -> dict[str, Any]:
    """Return how the answers on the reference images differ from those that the network has to give.

    Raises:
        BundleError: What to compare with is missing or damaged, or the network does not run.
    """
    folder = HERE / "selfcheck"
    try:
        expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        pixels = np.stack([PREPROCESS.pixels(read_image(folder / name)) for name in expected["images"]])
        wanted = None if expected["logits"] is None else np.array(expected["logits"], np.float32)
        tolerance = float(expected["tolerance"])
    except (OSError, ValueError, KeyError, TypeError, ImagesError) as error:
        raise _unusable(folder, error) from error
    logits = classifier.logits(pixels)
    said: dict[str, Any] = {"images": len(pixels), "logits": logits.tolist()}
    if wanted is None:
        return {**said, "passed": bool(np.isfinite(logits).all())}
    if wanted.shape != logits.shape:
        unlike = f"expected.json has numbers of shape {wanted.shape}, and the network answers with {logits.shape}"
        raise _unusable(folder, ValueError(unlike))
    difference = float(np.abs(logits - wanted).max() / max(float(wanted.std()), 1e-6))
    return {**said, "difference": difference, "passed": difference <= tolerance}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, which --help explains."""
    code: int = exit_code(lambda: _run(arguments), BundleError)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        description="Classify images.",
        epilog="Exit code: 0; 1 if something cannot be read, run or written; 2 if the command line is wrong; "
        "3 if the self-check fails.",
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE|FOLDER")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="number of classes to name (default 5)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="processor threads (default: one per core)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    parser.add_argument("--self-check", action="store_true", help="compare the answers on the reference images")
    given = parser.parse_args(arguments)
    if given.top < 1 or not 0 <= given.threads <= MOST_THREADS:
        parser.error(f"--top takes 1 or more, --threads 0 to {MOST_THREADS}")
    if given.self_check:
        if given.images:
            parser.error("--self-check has images of its own: leave the others out")
        said = self_check(Classifier(threads=given.threads))
        difference = f", largest difference {said['difference']:.1e} of the spread" if "difference" in said else ""
        words = "passed" if said["passed"] else "FAILED"
        print(json.dumps(said) if given.json else f"self-check {words}: {said['images']} images{difference}")
        return 0 if said["passed"] else 3
    files = list(found(given.images))
    if not files:
        parser.error("name an image or a folder of images" if not given.images else "there is no image in the folder")
    return classify(Classifier(threads=given.threads), files, top=given.top, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
