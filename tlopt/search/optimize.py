"""The most accurate classifier that keeps to a budget of time, size or memory."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tlopt import backends
from tlopt.artifact import Artifact
from tlopt.cards.card import CARD_NAME
from tlopt.environment import MOST_THREADS, versions
from tlopt.errors import ImagesError, SettingError, StudyError
from tlopt.images import intrusion
from tlopt.images.cache import Cache
from tlopt.images.parts import Shares
from tlopt.search.budget import Budget
from tlopt.search.networks import code_of
from tlopt.search.outcome import Study, finished, has_work
from tlopt.search.space import SIZES, Precision
from tlopt.search.study import backing, folder, reads
from tlopt.settings import MOST_EPOCHS, Setting, flat, ruled
from tlopt.sources import expect_known_at_once

if TYPE_CHECKING:
    from tlopt.images import ImageFolder, Split
    from tlopt.search.funnel.asked import Asked

Role = Literal["all", "train", "measure"]
Keep = Literal["best", "pareto", "all"]

_SEARCH, _WORKERS = "Search", "Workers"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What may be tried."""

    models: Annotated[
        tuple[str, ...],
        Setting(
            "Networks named source:name, or artifacts. Default: the small ones that can be had here.",
            metavar="NAME,…", group=_SEARCH, common=True,
        ),
    ] = ()  # fmt: skip
    weights: Annotated[
        tuple[str, ...],
        Setting("Safetensors files that replace the pretrained weights.", metavar="NAME=FILE,…", group=_SEARCH),
    ] = ()
    image_sizes: Annotated[
        tuple[int, ...],
        Setting("Sides of the square input image, in pixels.", minimum=16, maximum=4096, group=_SEARCH, common=True),
    ] = SIZES
    precisions: Annotated[
        tuple[Precision, ...],
        Setting("Number formats. qat is int8 after training for it, where int8 loses accuracy.", group=_SEARCH),
    ] = ("fp32", "int8", "qat")
    backend: Annotated[
        tuple[str, ...], Setting("Backends, or backend:device. Default: those that are installed.", group=_SEARCH)
    ] = ()
    threads: Annotated[
        int,
        Setting("Processor threads of a run. 0 takes one per core.", minimum=0, maximum=MOST_THREADS, group=_SEARCH),
    ] = 0
    pruning: Annotated[bool, Setting("Prune networks that are too slow unpruned.", group=_SEARCH)] = True


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is done for the answer."""

    minutes: Annotated[
        float, Setting("Time that the search may take, in minutes.", minimum=0.1, group=_SEARCH, common=True)
    ] = 30.0
    epochs: Annotated[
        int, Setting("Largest number of epochs of a training.", minimum=1, maximum=MOST_EPOCHS, group=_SEARCH)
    ] = 8
    seed: Annotated[int, Setting("Seed of all random choices.", minimum=0, group=_SEARCH)] = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """Who works on a search, and what stays of it."""

    study: Annotated[
        str,
        Setting(
            "File or database URL that several machines share, with #NAME behind it. Default: a file in --out.",
            metavar="FILE|URL", group=_WORKERS,
        ),
    ] = ""  # fmt: skip
    role: Annotated[
        Role,
        Setting(
            "What this machine does. train only trains. measure only times, on the machine that the result is for.",
            group=_WORKERS,
        ),
    ] = "all"
    keep: Annotated[
        Keep,
        Setting("Artifacts that stay. pareto: all that no other beats in accuracy and time.", group="Output"),
    ] = "best"


def _check_budget(budget: Budget, status: Path | None) -> None:
    if status is None:
        budget.check()


def _check_work(work: Work, tried: Tried, status: Path | None) -> None:
    if status is not None:
        return
    if work.role != "all" and not work.study:
        raise SettingError(
            f"role {work.role} is for several machines that share a study.", hint="Name it with --study FILE_OR_URL."
        )
    if "qat" in tried.precisions and "int8" not in tried.precisions:
        raise SettingError("qat is tried where int8 loses accuracy.", hint="Add int8: --precisions int8,qat.")
    if work.role != "train":  # the others run elsewhere
        for spelled in tried.backend:
            backends.expect_here(spelled)


def _check_source(tried: Tried, images: Path | None, kind: str) -> None:
    if kind == "images" and images is not None:
        raise SettingError("images is for an artifact.", hint="Give the folder of images as SOURCE.")
    if kind != "images" and (tried.models or tried.weights):
        raise SettingError(
            "models and weights are for images: an artifact keeps its own network.", hint="Leave them out."
        )


def _check_models(tried: Tried) -> None:
    expect_known_at_once(*(model for model in tried.models if ":" in model))  # the others are artifacts


@flat
@ruled(_check_budget, _check_work, _check_source, _check_models)
def optimize(
    source: str | Path | None = None,
    out: str | Path | None = None,
    *,
    budget: Budget,
    tried: Tried,
    effort: Effort,
    work: Work,
    images: Annotated[
        Path | None, Setting("Folder of an artifact's images, if they were moved or it knows none.", group="Data")
    ] = None,
    shares: Shares,
    cache: Cache,
    dry_run: Annotated[bool, Setting("Show what would be tried, and try nothing.", asks=True)] = False,
    status: Annotated[
        Path | None, Setting("Show how far the search in this folder is, and do nothing.", metavar="OUT", asks=True)
    ] = None,
    force: bool = False,
) -> Study:
    """Find the most accurate classifier that keeps to a budget.

    The latency of a network does not depend on its weights. So every network is timed first, and only those
    that can keep to the budget are trained. The rest of the time goes to the most promising of them.
    They are fine-tuned, pruned if they have to be, quantized, and measured on this machine.

    Decisions are made on validation images, and allow for chance. The answer is timed once more, and
    judged once on the test images. It stands in OUT/best, and OUT/report.html tells how it was found.

    The source is a folder of images or an artifact. A torch artifact is pruned and quantized. Of an ONNX artifact,
    the precision and the backend are chosen. The same command goes on with a search that was interrupted.

    From Python:
        source: Folder of images or a manifest, or an artifact.
        out: Folder to make, or to go on with.
        force: Start anew, and replace an older search at `out`.

    Raises:
        ArtifactError: An artifact among the networks is damaged, or cannot be trained on these images.
        SettingError: The budget says nothing or contradicts itself, or other settings do not fit.
        ImagesError: The images cannot be used, or have no labels.
        PluginError: No network can be had here, or a backend is unknown.
        StageError: A named backend cannot run here.
        MissingLibraryError: Optuna is not installed.
        StudyError: The study is damaged, or is of another search or another tlopt.
        OutputExistsError: Something else is at `out`, or another search is writing there.
        OutputError: The folder or the study would lie among the images.
    """
    if status is not None:
        from tlopt.search.study.status import status_of

        return status_of(status, work.study)
    if source is None or (out is None and not dry_run):
        raise SettingError(
            f"optimize needs {'images or an artifact' if source is None else 'a folder for its results'}.",
            hint="tlopt optimize IMAGES -o OUT --latency-ms 5",
        )
    source = Path(source)
    deciding = {
        "budget": budget, "tried": tried, "images": images, "shares": shares, "epochs": effort.epochs,
        "seed": effort.seed, "code": [code_of(model) for model in tried.models],
    }  # fmt: skip
    named = reads.named(source, images, tried.models, tried.weights)
    quick = reads.quick_digest(deciding, named)
    if out is not None and not force and (found := _finished(Path(out), quick)) is not None:
        folder.tell_kept(Path(out), work.keep)
        return found
    if out is not None:
        folder.check(Path(out), force=force, shared=bool(work.study), reads=named)
    if work.study and (file := backing.file_of(backing.parted(work.study)[0])) is not None:
        intrusion.refuse_file(file, named)
    from tlopt.search import searching

    asked, whole, parts = _asked(source, budget, tried, effort, images=images, shares=shares)
    _expect_images(parts)
    if dry_run:
        return searching.planned(asked, effort.minutes)
    assert out is not None
    return searching.search(
        asked, whole, parts, Path(out), quick=quick, minutes=effort.minutes, study=work.study, role=work.role,
        keep=work.keep, cache=cache, force=force,
    )  # fmt: skip


def _expect_images(parts: Mapping[Split, ImageFolder]) -> None:
    """Refuse images that would end the search once they are decoded, after minutes of timing.

    Raises:
        ImagesError: Too many images of a part, or all training images of a class, cannot be read.
    """
    from tlopt.images.headers import with_headers

    readable = {name: with_headers(part) for name, part in parts.items()}
    for name, number in readable["train"].counts.items():
        if parts["train"].counts[name] and not number:
            raise ImagesError(
                f"No training image of the class {name} of {parts['train'].source} can be read.",
                hint="Put images in their place, or remove the class.",
            )


def _finished(out: Path, quick: str) -> Study | None:
    """Return the answer that stands in a folder, if nothing was changed since and nothing is to be mended or tidied."""
    with contextlib.suppress(StudyError):
        note = folder.read_note(out)
        same = note is not None and note.finished and (note.quick, note.tlopt) == (quick, versions()["tlopt"])
        if note is not None and same and (out / folder.PAGE).exists() and (note.keep == "all" or not has_work(out)):
            return finished(out)
    return None


def _asked(
    source: Path, budget: Budget, tried: Tried, effort: Effort, *, images: Path | None, shares: Shares
) -> tuple[Asked, ImageFolder, dict[Split, ImageFolder]]:
    """Return the search, all its images, and its images by part.

    Raises:
        ImagesError: The images cannot be used.
        SettingError: Settings do not fit the source.
        ArtifactError: An artifact among the networks cannot be trained on these images.
    """
    from tlopt.images.of_artifact import drawn
    from tlopt.images.scanning import scan
    from tlopt.search.funnel.asked import WIDTHS, Asked, Images
    from tlopt.search.space import chosen_space

    artifact = Artifact.load(source).expect("torch", "onnx") if (source / CARD_NAME).exists() else None
    own = True
    _check_source(tried, images, "images" if artifact is None else artifact.card.kind)
    if artifact is None:
        whole = scan(source)
        _, parts = drawn(whole, shares, effort.seed)
        models: tuple[str, ...] = tried.models
    else:
        whole, parts, shares, own = _images_of(artifact, images, shares, effort.seed)
        models = (str(source),)
    space, left_out = chosen_space(
        models=models, weights=tried.weights, image_sizes=tried.image_sizes, precisions=tried.precisions,
        backend=tried.backend or _backends(), threads=tried.threads, widths=(1.0, *WIDTHS) if tried.pruning else (1.0,),
    )  # fmt: skip
    asked = Asked(
        kind="images" if artifact is None else "torch" if artifact.card.kind == "torch" else "onnx",
        space=space,
        budget=budget,
        images=Images(
            path=whole.source, digest=whole.digest, classes=whole.classes, train=len(parts["train"]),
            val=len(parts["val"]), test=len(parts["test"]),
        ),
        shares=shares,
        seed=effort.seed,
        epochs=effort.epochs,
        own=own,
        left_out=left_out,
    )  # fmt: skip
    if artifact is None:
        for one in space.networks:
            if (named := one.opened_artifact()) is not None:
                asked.expect_trainable(named)
    return asked, whole, parts


def _images_of(
    artifact: Artifact, images: Path | None, shares: Shares, seed: int
) -> tuple[ImageFolder, dict[Split, ImageFolder], Shares, bool]:
    """Return the images that an artifact is judged on, by part too, and whether they are those of its training.

    Those of its training are divided as they were then.
    """
    from tlopt.images import division
    from tlopt.images.of_artifact import parts_of

    ref = artifact.card.images
    if images is None and ref is None:
        raise ImagesError(
            f"{artifact.path} knows no images to be judged on: its model was imported.",
            hint="Name a folder of labelled images with --images.",
        )
    found = parts_of(artifact, images, labels="all")
    if ref is not None and found.trained_on:
        if not len(found.divided["val"]):
            raise ImagesError(f"None of the images of {artifact.path} are for validation.")
        return found.whole, dict(found.divided), Shares(val=ref.val, test=ref.test), True
    divided = found.whole.split(val=shares.val, test=shares.test, seed=seed)
    if not len(divided["val"]):
        raise ImagesError(f"None of the images in {images} are left for validation.", hint="Give a larger --val.")
    if not division.has_all_parts(found.whole):
        division.expect_writable(found.whole)
    return found.whole, divided, shares, False


def _backends() -> tuple[str, ...]:
    """Return the backends that run exported graphs here, and are not told apart by a name."""
    import importlib.util

    installed = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name) is not None]
    return tuple(installed) or ("onnxruntime",)
