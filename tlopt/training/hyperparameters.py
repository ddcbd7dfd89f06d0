"""What decides a training run: one frozen record, read by every part of the training loop.

Importing this module does not import torch, so that stages can take their defaults from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Moves = Literal["full", "gradual", "head"]
Loss = Literal["cross-entropy", "focal", "class-balanced", "logit-adjusted", "bce"]
Policy = Literal["none", "randaugment", "trivialaugment", "augmix"]
Flip = Literal["none", "horizontal", "both"]
Schedule = Literal["cosine", "constant"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """How a network is trained.

    Args:
        epochs: Passes over the training images.
        batch: Images per step, over all processes.
        lr: Highest learning rate, that of the classifier.
        backbone_lr: Learning rate of the last layers below the classifier, relative to `lr`.
        layer_decay: Factor on the learning rate from each stage of the backbone to the one below.
        optimizer: "sgd", "adamw", or any name that `timm.optim` knows.
        momentum: Of optimizers that have one.
        weight_decay: Pull of the weights to zero; norms and biases are spared.
        schedule: How the learning rate goes on after the warm-up.
        warmup: Share of the steps in which the learning rate rises from zero, 0..1.
        accumulate: Steps whose gradients are summed up before the weights move.
        clip: Largest norm of the gradient; 0 for any.
        moves: Which layers train: all, stage by stage from the top (arXiv 1801.06146), or the
            classifier alone.
        frozen_norm: Keep the statistics of batch norms as they are.
        frozen_stages: Stages of the backbone, from the input on, that stay as they are.
        loss: What is minimized.
        smoothing: Label smoothing, 0..1 (arXiv 1512.00567).
        focal_gamma: Exponent of the focal loss (arXiv 1708.02002).
        l2_sp: Pull of the weights to where training began (arXiv 1802.01483).
        ema: Decay of the weights' moving average per step; 0 for none.
        patience: Epochs without improvement on validation before training stops; 0 for never.
        crop: Smallest share of the image's area that a random crop keeps, 0..1; 1 for the central crop.
        flip: Random mirroring.
        policy: Random changes of color and shape.
        magnitude: Strength of the policy's changes, 0..10.
        erasing: Share of images with a random rectangle erased (arXiv 1708.04896), 0..1.
        mixup: Parameter of the Beta distribution images are blended by (arXiv 1710.09412); 0 for off.
        cutmix: The same for pasted rectangles (arXiv 1905.04899); 0 for off.
        teacher_weight: Share of the teacher's answers in the loss, 0..1.
        teacher_temperature: Softens the teacher's answers (arXiv 1503.02531).
        teacher_features: Weight of the distance to the teacher's features (arXiv 1412.6550); 0 for none.
        precision: Of the arithmetic; "auto" takes what is fastest on this processor.
        compile: Compile the network with torch.compile.
        seed: Of everything random.
    """

    epochs: int = 6
    batch: int = 32
    lr: float = 2e-3
    backbone_lr: float = 0.1
    layer_decay: float = 0.8
    optimizer: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.02
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    accumulate: int = 1
    clip: float = 1.0
    moves: Moves = "full"
    frozen_norm: bool = True
    frozen_stages: int = 0
    loss: Loss = "cross-entropy"
    smoothing: float = 0.0
    focal_gamma: float = 2.0
    l2_sp: float = 0.0
    ema: float = 0.0
    patience: int = 0
    crop: float = 0.5
    flip: Flip = "horizontal"
    policy: Policy = "none"
    magnitude: float = 5.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    teacher_weight: float = 0.5
    teacher_temperature: float = 2.0
    teacher_features: float = 0.0
    precision: Precision = "auto"
    compile: bool = False
    seed: int = 0
