"""The stage finetune: from labelled images and a pretrained network to a classifier of their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tlopt.artifact import Artifact
from tlopt.backends import open_runner
from tlopt.cards.card import Card
from tlopt.cards.details import TorchDetails
from tlopt.errors import SettingError
from tlopt.images import ImageFolder
from tlopt.images.cache import Cache
from tlopt.images.of_artifact import drawn, trained_on
from tlopt.images.parts import Shares
from tlopt.publishing import Draft
from tlopt.settings import Setting, ruled
from tlopt.stages import stage
from tlopt.training import unlabelled
from tlopt.training.hyperparameters import EFFORTS, OF_NO_HEAD, Effort, Hyperparameters, Method
from tlopt.training.network import Pretrained, of_artifact, pretrained, refuse_changes, refuse_unknown
from tlopt.training.outcome import expect_tensorboard
from tlopt.training.unlabelled import Guidance

_QAT = "tlopt qat ARTIFACT -o OUT trains a fine-tuned artifact for int8."


def _check_folds(training: Hyperparameters) -> None:
    if training.folds == 1:
        raise SettingError("folds must be 0 or at least 2, got 1.", hint="Five are usual: --folds 5.")


def _refuse_folds(training: Hyperparameters, kind: str) -> None:
    if training.folds and kind != "images":
        raise SettingError(
            "An artifact was trained on its images, so that none of them can judge it out of fold.",
            hint="Leave out --folds, or fine-tune a folder of images with --folds.",
        )


@stage(reads=("images", "torch"), writes="torch", shared=True, moved={"qat": _QAT, "for": _QAT, "reduce_range": _QAT})
@ruled(
    _check_folds,
    _refuse_folds,
    unlabelled.refuse_head,
    unlabelled.refuse_untrained,
    refuse_unknown,
    refuse_changes,
    expect_tensorboard,
)
def finetune(
    source: ImageFolder | Artifact,
    out: Draft,
    *,
    start: Pretrained,
    method: Annotated[
        Method,
        Setting(
            "lp-ft trains the classifier, then all layers, and keeps the better network. full trains all layers at "
            "once. gradual adds one stage after the other. head trains the classifier alone.",
            group="Model",
            common=True,
            idles={"head": OF_NO_HEAD},
        ),
    ] = "lp-ft",
    effort: Annotated[  # noqa: ARG001 - it has set others when the settings were checked
        Effort,
        Setting(
            "How long to train. It sets other settings, unless you give them. quick trains the classifier alone. "
            "best takes three to five times as long as default.",
            group="Training",
            common=True,
            sets=EFFORTS,
        ),
    ] = "default",
    training: Hyperparameters,
    guidance: Guidance,
    images: Annotated[
        Path | None, Setting("Folder of the artifact's training images, if they were moved.", group="Data")
    ] = None,
    shares: Shares,
    cache: Cache,
    resume: Annotated[bool, Setting("Continue an interrupted run from its checkpoint.", common=True)] = False,
    tensorboard: Annotated[bool, Setting("Write TensorBoard events into the artifact.", group="Output")] = False,
) -> Card:
    """Fine-tune a pretrained network on labelled images.

    An artifact keeps its own network. Of several processes that torchrun started, the first makes the
    artifact and goes on alone.

    Raises:
        SettingError: A setting does not fit, or the batch cannot be shared among the processes.
        ImagesError: The images cannot be used, or none is left for validation.
        MissingLibraryError: TensorBoard is wanted and not installed.
        StageError: The loss is no number or explodes, or the disk is full; the last checkpoint stands.
        SystemExit: With code 0, in every process but the first, when training is over.
    """
    from tlopt import sources

    if guidance.teacher is not None:
        sources.check_artifact(guidance.teacher)  # a wrong one is told before images are decoded
    if isinstance(source, Artifact):
        ref, parts = trained_on(source, images)
    else:
        ref, parts = drawn(source, shares, training.seed, folds=training.folds)
    others = unlabelled.find(guidance, parts, training.seed)
    classes = parts["train"].classes
    from tlopt.training import job
    from tlopt.training.resumption.checkpoint import Checkpoint

    if isinstance(source, Artifact):
        network, pruning = of_artifact(source, start), job.of_pruning(source)
    else:
        network, pruning = pretrained(start, classes=len(classes), seed=training.seed), TorchDetails()
    run = job.Job(
        network=network,
        parts=parts,
        settings=training,
        method=method,
        cache=cache,
        sparse=pruning.sparse,
        teacher=guidance.teacher,
        unlabelled=others,
        runner=open_runner,
        crossed=ref.folds > 0,
    )
    trained = run.run(Checkpoint(folder=out.checkpoints, resume=resume))
    return run.card(out.folder, trained, ref, details=pruning, tensorboard=tensorboard)
