"""What decides a training run: one frozen record, read by every part of the training loop.

Importing this module does not import torch: the fields are the settings of the stages that train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from tlopt.settings import MOST_EPOCHS, MOST_IN_BATCH, Setting

Method = Literal["lp-ft", "full", "gradual", "head"]
Moves = Literal["full", "gradual", "head"]
Loss = Literal["cross-entropy", "focal", "class-balanced", "logit-adjusted", "bce"]
Policy = Literal["none", "randaugment", "trivialaugment", "augmix"]
Flip = Literal["none", "horizontal", "both"]
Schedule = Literal["cosine", "constant"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

Effort = Literal["quick", "default", "best"]

# Effort -> the settings of finetune that it sets, where they are not given themselves. docs/results.md has what each
# brings and costs.
EFFORTS: Mapping[str, Mapping[str, object]] = {
    "quick": {"method": "head"},
    "default": {},
    "best": {"epochs": 11, "mixup": 0.2, "policy": "trivialaugment", "magnitude": 10.0, "soup": 3},
}

# Fewer training images than FEW are fewer than 20 steps of an epoch. With half the batch it has twice as many.
BATCH, SMALL_BATCH, FEW = 32, 16, 640

_TRAINING, _REGULARIZATION = "Training", "Regularization"
_AUGMENTATION, _DISTILLATION = "Augmentation", "Distillation"


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """How a network is trained. Each field says what it means; `moves` alone is no setting of a stage.

    Args:
        moves: Which layers train: all, stage by stage from the top (arXiv 1801.06146), or the
            classifier alone.
        smoothing: See arXiv 1512.00567.
        focal_gamma: See arXiv 1708.02002.
        l2_sp: See arXiv 1802.01483.
        soup: See arXiv 2203.05482.
        erasing: See arXiv 1708.04896.
        mixup: Parameter of the Beta distribution that images are blended by (arXiv 1710.09412).
        cutmix: The same for pasted rectangles (arXiv 1905.04899).
        teacher_temperature: See arXiv 1503.02531.
        teacher_features: See arXiv 1412.6550.
    """

    epochs: Annotated[
        int,
        Setting(
            "Number of passes over the training images.", minimum=1, maximum=MOST_EPOCHS, group=_TRAINING, common=True
        ),
    ] = 6
    lr: Annotated[
        float, Setting("Highest learning rate of the classifier.", minimum=0, group=_TRAINING, common=True)
    ] = 2e-3
    batch: Annotated[
        int | None,
        Setting(
            f"Images per training step, over all processes. Default: {BATCH}, or {SMALL_BATCH} of fewer than {FEW} "
            "training images.",
            minimum=1,
            maximum=MOST_IN_BATCH,
            group=_TRAINING,
            common=True,
        ),
    ] = None
    seed: Annotated[int, Setting("Seed of all random choices.", minimum=0, group=_TRAINING)] = 0
    backbone_lr: Annotated[
        float,
        Setting(
            "Learning rate of the last layers before the classifier, as a share of the classifier's.",
            minimum=0,
            group=_TRAINING,
        ),
    ] = 0.1
    layer_decay: Annotated[
        float,
        Setting(
            "Factor by which the learning rate falls from each stage to the stage before it.",
            minimum=0,
            maximum=1,
            group=_TRAINING,
        ),
    ] = 0.8
    optimizer: Annotated[str, Setting("Optimizer: sgd, adamw, or another name that timm knows.", group=_TRAINING)] = (
        "adamw"
    )
    momentum: Annotated[
        float, Setting("Momentum of the optimizer, if it has one.", minimum=0, maximum=1, group=_TRAINING)
    ] = 0.9
    schedule: Annotated[Schedule, Setting("How the learning rate goes on after the warm-up.", group=_TRAINING)] = (
        "cosine"
    )
    warmup: Annotated[
        float, Setting("Share of the steps in which the learning rate rises.", minimum=0, maximum=1, group=_TRAINING)
    ] = 0.1
    accumulate: Annotated[
        int,
        Setting(
            "Steps whose gradients are added up before the weights change.",
            minimum=1,
            maximum=MOST_IN_BATCH,
            group=_TRAINING,
        ),
    ] = 1
    clip: Annotated[float, Setting("Largest norm of the gradient. 0 sets no limit.", minimum=0, group=_TRAINING)] = 1.0
    frozen_norm: Annotated[
        bool, Setting("Keep the statistics of batch normalization as they are.", group=_TRAINING)
    ] = True
    frozen_stages: Annotated[
        int,
        Setting("Number of stages after the input that are not trained.", minimum=0, maximum=1000, group=_TRAINING),
    ] = 0
    precision: Annotated[
        Precision,
        Setting("Precision of the arithmetic. auto times fp32 and bf16, and takes the faster one.", group=_TRAINING),
    ] = "auto"
    compile: Annotated[
        bool, Setting("Compile the network with torch.compile before the training.", group=_TRAINING)
    ] = False
    cuda_graphs: Annotated[
        bool,
        Setting("Replay each step from a CUDA graph, which saves a GPU the gaps between kernels.", group=_TRAINING),
    ] = False
    moves: Moves = "full"
    patience: Annotated[
        int,
        Setting(
            "Epochs without improvement after which training stops. 0 never stops it.",
            minimum=0,
            maximum=MOST_EPOCHS,
            group=_REGULARIZATION,
        ),
    ] = 0
    weight_decay: Annotated[
        float,
        Setting(
            "Strength that pulls weights to zero. Normalization and biases are left out.",
            minimum=0,
            group=_REGULARIZATION,
        ),
    ] = 0.02
    loss: Annotated[Loss, Setting("Loss function that training minimizes.", group=_REGULARIZATION)] = "cross-entropy"
    smoothing: Annotated[
        float,
        Setting("Share of each label that is spread over all classes.", minimum=0, maximum=0.9, group=_REGULARIZATION),
    ] = 0.0
    focal_gamma: Annotated[float, Setting("Exponent of the focal loss.", minimum=0, group=_REGULARIZATION)] = 2.0
    l2_sp: Annotated[
        float, Setting("Strength that pulls weights to their pretrained values.", minimum=0, group=_REGULARIZATION)
    ] = 0.0
    ema: Annotated[
        float,
        Setting(
            "Decay of the moving average of the weights. 0 keeps no average.",
            minimum=0,
            maximum=0.99999,
            group=_REGULARIZATION,
        ),
    ] = 0.0
    soup: Annotated[
        int,
        Setting(
            "Number of trainings, each with its own random choices, whose weights are averaged.",
            minimum=1,
            maximum=16,
            group=_REGULARIZATION,
        ),
    ] = 1
    folds: Annotated[
        int,
        Setting(
            "Number of parts that are left out in turn to choose and judge. Then all images are trained on. "
            "0 keeps a val part for that.",
            minimum=0,
            maximum=20,
            group="Data",
        ),
    ] = 0
    crop: Annotated[
        float,
        Setting(
            "Smallest share of the image that a random crop keeps. 1 takes the central crop.",
            minimum=0.01,
            maximum=1,
            group=_AUGMENTATION,
        ),
    ] = 0.5
    flip: Annotated[Flip, Setting("Directions in which images are mirrored at random.", group=_AUGMENTATION)] = (
        "horizontal"
    )
    policy: Annotated[Policy, Setting("Policy that changes color and shape at random.", group=_AUGMENTATION)] = "none"
    magnitude: Annotated[
        float, Setting("Strength of the policy's changes.", minimum=0, maximum=10, group=_AUGMENTATION)
    ] = 5.0
    erasing: Annotated[
        float,
        Setting(
            "Share of the images from which a random rectangle is erased.", minimum=0, maximum=1, group=_AUGMENTATION
        ),
    ] = 0.0
    mixup: Annotated[
        float, Setting("Strength of mixup, which blends two images. 0 switches it off.", minimum=0, group=_AUGMENTATION)
    ] = 0.0
    cutmix: Annotated[
        float,
        Setting(
            "Strength of CutMix, which pastes a part of one image into another. 0 switches it off.",
            minimum=0,
            group=_AUGMENTATION,
        ),
    ] = 0.0
    teacher_weight: Annotated[
        float,
        Setting(
            "Share of the loss that compares answers with the teacher's.", minimum=0, maximum=1, group=_DISTILLATION
        ),
    ] = 0.5
    teacher_temperature: Annotated[
        float, Setting("Temperature that softens the teacher's answers.", minimum=0.1, group=_DISTILLATION)
    ] = 2.0
    teacher_features: Annotated[
        float,
        Setting("Weight of the distance to the teacher's features. 0 leaves it out.", minimum=0, group=_DISTILLATION),
    ] = 0.0


# The classifier alone is fitted in one go, to features that are computed once: these settings have no effect then.
OF_NO_HEAD = (*(one.name for one in fields(Hyperparameters) if one.name not in ("seed", "folds", "moves")), "teacher")
