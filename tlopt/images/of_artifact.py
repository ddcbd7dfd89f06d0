"""Which images a network is trained, calibrated and measured on: those of its training, or a folder of others."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tlopt.artifact import Artifact
from tlopt.cards.card import ImagesRef
from tlopt.errors import ImagesError, SettingError
from tlopt.images.folder import ImageFolder
from tlopt.images.parts import SPLITS, Shares, Split
from tlopt.images.scanning import every_image, reopen, scan, scan_any
from tlopt.reading.files import real_path

log = logging.getLogger(__name__)

# all: a folder holds every class of the network; some: it may lack some; flat: the same, or it has no class folders;
# none: labels are used if they fit.
Labels = Literal["all", "some", "flat", "none"]

# How images that a network was not trained on are divided where a stage needs two parts of them.
OTHERS = Shares(val=0.2, test=0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Images by part. A label is an index into the classes of the network, if the images have labels that fit.

    Args:
        whole: All of them.
        divided: Part -> its images, none where there is no such part.
        trained_on: Whether the network was trained on them.
    """

    whole: ImageFolder
    divided: Mapping[Split, ImageFolder]
    trained_on: bool

    @property
    def train(self) -> ImageFolder:
        """For training and calibration."""
        return self.divided["train"]

    @property
    def held_out(self) -> ImageFolder:
        """What a result is judged by: the val part, or the train part if there is none."""
        return self.divided["val"] if len(self.divided["val"]) else self.train


def parts_of(
    artifact: Artifact,
    images: Path | None = None,
    *,
    labels: Labels,
    draw: bool = False,
    seed: int = 0,
    hint: str = "Name a folder with --images.",
) -> Parts:
    """Return the images of an artifact by part: those of its training, or those of a folder.

    The training images are divided as they were then, in whatever place they are now. Others keep
    the parts that they have on disk. Without any they are all for the test, or with `draw` a fifth
    is for validation and the rest for training.

    Args:
        artifact: The artifact.
        images: A folder or a manifest; None for the training images.
        labels: Which labels they need.
        draw: Divide images that have no parts.
        seed: Of that.
        hint: What helps if the artifact knows no images.

    Raises:
        ImagesError: There are none, they have changed, or their classes are not the artifact's.
    """
    ref, classes = artifact.card.images, artifact.card.classes
    labels = "none" if artifact.card.task == "any" else labels
    if images is None and ref is None:
        raise ImagesError(f"{artifact.path} knows no training images: its model was imported.", hint=hint)
    path = images or Path(ref.path if ref else "")
    if images is None and not path.exists():
        raise ImagesError(
            f"The images of {artifact.path} are no longer at {path}.", hint="Name their folder with --images."
        )
    known = () if labels == "all" else classes
    folder = _scanned(path, artifact, labels, known)
    if ref is not None and (images is None or folder.digest == ref.digest):
        _expect(folder, ref)
        fitting = _fitting(folder, artifact, "all")
        divided = fitting.split(val=ref.val, test=ref.test, seed=ref.seed, whole=ref.folds > 0)
        return Parts(whole=fitting, divided=divided, trained_on=True)
    fitting = _fitting(folder, artifact, labels)
    return Parts(whole=fitting, divided=_divided(fitting, draw, seed), trained_on=False)


def _scanned(path: Path, artifact: Artifact, labels: Labels, known: Collection[str]) -> ImageFolder:
    if artifact.card.task == "any":
        return every_image(path)
    return scan_any(path, known=known) if labels in ("flat", "none") else scan(path, known=known)


def drawn(
    folder: ImageFolder, shares: Shares, seed: int, *, folds: int = 0
) -> tuple[ImagesRef, dict[Split, ImageFolder]]:
    """Divide images to train on; return the reference for the card, and the parts.

    With `folds` the val part is left empty, unless the images have one of their own.

    Raises:
        SettingError: The shares leave nothing for training.
        ImagesError: None is left for validation.
    """
    if folds and bool((folder.fixed == SPLITS.index("val")).any()):
        log.warning("The images have a val part of their own, which chooses and judges: folds are left out.")
        folds = 0
    ref = ImagesRef(
        path=str(real_path(folder.source)), digest=folder.digest, val=shares.val, test=shares.test, seed=seed,
        folds=folds,
    )  # fmt: skip
    parts = folder.split(val=shares.val, test=shares.test, seed=seed, whole=folds > 0)
    return ref, parts if folds else _with_validation(parts)


def trained_on(artifact: Artifact, moved: Path | None = None) -> tuple[ImagesRef, dict[Split, ImageFolder]]:
    """Return the images that an artifact was trained on, to go on with: the reference, and the parts.

    Args:
        artifact: The artifact.
        moved: Where they are now, if not where they were.

    Raises:
        ImagesError: There are none, they are gone or have changed, or none is for validation.
    """
    ref = artifact.card.images
    if ref is None:
        raise ImagesError(
            f"{artifact.path} was not trained by tlopt: its card names no images.",
            hint="tlopt finetune IMAGES --model … starts from a pretrained network.",
        )
    if ref.folds:
        raise ImagesError(
            f"{artifact.path} was trained on all images that are not for the test: none is left for validation.",
            hint="Leave --folds out of a training that others go on from.",
        )
    return ref, _with_validation(reopen(ref, moved))


def _with_validation(parts: dict[Split, ImageFolder]) -> dict[Split, ImageFolder]:
    if not len(parts["val"]):
        raise ImagesError(
            f"None of the {sum(map(len, parts.values()))} images is left for validation.",
            hint="Give a larger --val, or add images.",
        )
    return parts


def _expect(folder: ImageFolder, ref: ImagesRef) -> None:
    """Check that images are those of a training."""
    if folder.digest != ref.digest:
        raise ImagesError(
            f"The images in {folder.source} are not the images that the artifact was trained on. Their digest is "
            f"{folder.digest[:12]}…, expected {ref.digest[:12]}…. Their test part may hold training images.",
            hint="Name the images to use with --images.",
        )


def _divided(folder: ImageFolder, draw: bool, seed: int) -> Mapping[Split, ImageFolder]:
    nothing = folder.select(range(0))
    if draw:
        try:
            return folder.split(val=OTHERS.val, test=OTHERS.test, seed=seed)
        except SettingError:  # too few for two parts: an image of each class, say
            return {"train": folder, "val": nothing, "test": nothing}
    if bool((folder.fixed < 0).all()):
        return {"train": nothing, "val": nothing, "test": folder}
    return {split: folder.select(np.flatnonzero(folder.fixed == i)) for i, split in enumerate(SPLITS)}


def _fitting(folder: ImageFolder, artifact: Artifact, labels: Labels) -> ImageFolder:
    """Return the images with labels that index the artifact's classes.

    Images whose labels are not needed and do not fit are returned as they are.

    Raises:
        ImagesError: Their classes are not the artifact's.
    """
    classes = artifact.card.classes
    extra = sorted(set(folder.classes) - set(classes))
    missing = sorted(set(classes) - set(folder.classes))
    if extra or (missing and labels == "all") or not folder.classes:
        if labels == "none" or (labels == "flat" and not folder.classes):
            return folder
        raise _other_classes(folder, artifact, missing, extra)
    if folder.classes == classes:
        return folder
    order = np.array([classes.index(name) for name in folder.classes], dtype=np.int64)
    return folder.labelled(order[folder.labels], classes)


def _other_classes(folder: ImageFolder, artifact: Artifact, missing: list[str], extra: list[str]) -> ImagesError:
    text = f"The classes of {folder.path} are not those of {artifact.path}:"
    text += f" it has no {', '.join(missing[:10])}{' …' * (len(missing) > 10)};" if missing else ""
    text += f" {artifact.name} does not know {', '.join(extra[:10])}{' …' * (len(extra) > 10)};" if extra else ""
    hint = "Each class folder needs the name of a class of the artifact."
    folded = {name.casefold(): name for name in missing}
    if alike := [(name, folded[name.casefold()]) for name in extra if name.casefold() in folded]:
        hint = f"Upper and lower case matter: rename {', '.join(f'{a} to {b}' for a, b in alike[:5])}."
    return ImagesError(text.rstrip(";") + ".", hint=hint)
