"""What an artifact says about images nobody has labelled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from tlopt.artifact import Artifact
from tlopt.backends import open_runner
from tlopt.backends._logits import check_logits
from tlopt.environment import MOST_THREADS
from tlopt.errors import ImagesError
from tlopt.images import ImageFolder, Unreadable
from tlopt.images.scanning import image_files
from tlopt.judging import probabilities
from tlopt.measure.answers.answering import answers, callers
from tlopt.measure.candidates import running
from tlopt.measure.choose import choose
from tlopt.progress import bar
from tlopt.reading.files import expect_regular
from tlopt.reading.names import shown_name
from tlopt.settings import MOST_IN_BATCH, MOST_SHOWN, Setting, checked


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one image.

    Args:
        file: The image.
        classes: The most probable classes, best first.
        probabilities: Theirs, 0..1.
        sure: Whether the best one is as probable as was asked for.
    """

    file: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    sure: bool = True

    def line(self) -> str:
        """Return the answer as one line of text, tab between file and classes; "unsure" stands before them."""
        pairs = zip(self.classes, self.probabilities, strict=True)
        best = ", ".join(f"{shown_name(name)} {probability:.3f}" for name, probability in pairs)
        return f"{shown_name(self.file)}\t{'' if self.sure else 'unsure: '}{best}"

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON types."""
        pairs = zip(self.classes, self.probabilities, strict=True)
        return {"file": self.file, "sure": self.sure, "top": [{"class": name, "probability": p} for name, p in pairs]}


class Predictions(Iterator[Prediction]):
    """The answers for some images, one after the other as they are computed.

    Args:
        answers: Gives them.
        unreadable: Grows with the images that cannot be read.
    """

    def __init__(self, answers: Iterator[Prediction], unreadable: Unreadable) -> None:
        self._answers, self._unreadable = answers, unreadable

    def __next__(self) -> Prediction:
        return next(self._answers)

    @property
    def unreadable(self) -> Mapping[str, str]:
        """The images without an answer so far -> why they cannot be read."""
        return self._unreadable.reasons

    def check(self) -> None:
        """Fail if an image has no answer.

        Raises:
            ImagesError: At least one could not be read.
        """
        if left_out := len(self.unreadable):
            raise ImagesError(
                f"{left_out} of the {self._unreadable.total} images cannot be read and got no answer: "
                f"{shown_name(next(iter(self.unreadable)))}{', …' * (left_out > 1)}.",
                hint="The others are answered. Replace those that the warnings name, or move them away.",
            )


@checked
def predict(
    artifact: str | Path | Artifact,
    images: str | Path,
    *,
    top: Annotated[int, Setting("Number of classes to name for each image.", minimum=1, maximum=MOST_SHOWN)] = 5,
    backend: Annotated[
        str, Setting("Backend, or backend:device. auto takes the fastest. Default: that of the artifact's kind.")
    ] = "",
    min_confidence: Annotated[
        float,
        Setting(
            "Probability below which an answer counts as unsure. evaluate --min-precision finds one.",
            minimum=0,
            maximum=1,
        ),
    ] = 0.0,
    batch: Annotated[int, Setting("Largest number of images per run.", minimum=1, maximum=MOST_IN_BATCH)] = 32,
    threads: Annotated[int, Setting("Processor threads. 0 takes one per core.", minimum=0, maximum=MOST_THREADS)] = 0,
) -> Predictions:
    """Classify an image, or every image in a folder.

    The answers come in the order of the file names. An image that cannot be read is left out, and a
    warning names it. After all answers the command then ends with exit code 1.

    Raises:
        ImagesError: There is no image, or none can be read.
        ArtifactError: The artifact is damaged or no classifier, or the backend does not run its kind.
        StageError: The backend cannot run it here, or failed while running.
    """
    loaded, folder = Artifact.load(artifact).expect_classifier("predict"), _find(Path(images))
    if backend == "auto":
        backend = choose(loaded, batch=min(batch, len(folder)), threads=threads).backend
    unreadable = Unreadable(len(folder), share=1.0)
    return Predictions(_answers(loaded, folder, top, backend, batch, threads, min_confidence, unreadable), unreadable)


def _answers(
    artifact: Artifact, folder: ImageFolder, top: int, backend: str, batch: int, threads: int, least: float,
    unreadable: Unreadable,
) -> Iterator[Prediction]:  # fmt: skip
    show = bar("Classifying", len(folder))
    with (
        open_runner(artifact, backend, threads=threads, callers=callers(len(folder), threads)) as runner,
        show as shown,
        running(artifact, runner.name),
    ):
        for found in answers(runner, folder, artifact.card.preprocess, batch=batch, unreadable=unreadable):
            said = check_logits(found.logits, artifact, runner.name)
            every = probabilities(said, artifact.card.answers)
            best = np.argsort(-every, axis=1, kind="stable")[:, :top]
            shown.advance(len(found.files))
            for file, row, order in zip(found.files, every, best, strict=True):
                shares = tuple(round(float(row[i]), 6) for i in order)
                yield Prediction(
                    file=str(folder.path / file),
                    classes=tuple(artifact.card.classes[i] for i in order),
                    probabilities=shares,
                    sure=shares[0] >= least,
                )


def _find(path: Path) -> ImageFolder:
    """Return an image, or all below a folder, as a folder of one nameless class."""
    if path.is_dir():
        root, files = path, image_files(path)
    elif path.exists():
        try:
            expect_regular(path)
        except OSError as error:
            raise ImagesError(f"{error}") from error
        root, files = path.parent, [path.name]
    else:
        raise ImagesError(f"There is no image or folder at {path}.")
    return ImageFolder(
        path=root,
        classes=("",),
        files=tuple(files),
        labels=np.zeros(len(files), np.int64),
        fixed=np.full(len(files), -1, np.int8),
    )
