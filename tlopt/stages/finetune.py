"""The stage finetune: from labelled images and a pretrained network to a classifier of their classes."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from tlopt.artifact import Artifact
from tlopt.backends import reduced_range
from tlopt.card import Card, ImagesRef
from tlopt.errors import ArtifactError, ImagesError, SettingError
from tlopt.images import SPLITS, ImageFolder, Split, batches, reopen
from tlopt.images.pixels import default_cache, open_pixels
from tlopt.registry import require
from tlopt.settings import Setting
from tlopt.stages import checkpoint_folder, stage
from tlopt.training.hyperparameters import Flip, Hyperparameters, Loss, Policy, Precision, Schedule

if TYPE_CHECKING:
    from torch import nn

    from tlopt.images.pixels import Pixels
    from tlopt.preprocess import Preprocess
    from tlopt.quantization.qat.network import Steps
    from tlopt.training.teacher import Teacher
    from tlopt.training.transfer import Transfer

log = logging.getLogger(__name__)

Method = Literal["lp-ft", "full", "gradual", "head"]
_DEFAULT = Hyperparameters()
_CALIBRATED = 256  # training images from which scales to be trained begin
_OPSET = 18  # of the graph that shows where to round; any that export knows has the same tensors


@stage(reads=("images", "torch"), writes="torch")
def finetune(
    source: ImageFolder | Artifact,
    out: Path,
    *,
    model: Annotated[
        str, Setting("Pretrained network, source:name; an artifact goes on with its own.")
    ] = "pip:efficientnet_lite0",
    weights: Annotated[Path | None, Setting("Safetensors file that takes the place of the pretrained weights.")] = None,
    images: Annotated[Path | None, Setting("Where the images of an artifact are now, if they were moved.")] = None,
    method: Annotated[
        Method,
        Setting(
            "lp-ft: probe, then all layers, and what does better is kept; full: all layers from a fresh classifier; "
            "gradual: stage by stage from the top; head: the probe alone."
        ),
    ] = "lp-ft",
    epochs: Annotated[int, Setting("Passes over the training images.", minimum=1)] = _DEFAULT.epochs,
    lr: Annotated[float, Setting("Highest learning rate, that of the classifier.", minimum=0)] = _DEFAULT.lr,
    image_size: Annotated[
        int | None, Setting("Side of the input, pixels; by default the model's own.", minimum=16)
    ] = None,
    batch: Annotated[int, Setting("Images per step, over all processes.", minimum=1)] = _DEFAULT.batch,
    val: Annotated[float, Setting("Share of the images for validation.", minimum=0, maximum=0.9)] = 0.15,
    test: Annotated[float, Setting("Share of the images kept for the test.", minimum=0, maximum=0.9)] = 0.15,
    seed: Annotated[int, Setting("Seed of everything random.", minimum=0)] = 0,
    backbone_lr: Annotated[
        float, Setting("Learning rate of the last layers before the classifier, relative to --lr.", minimum=0)
    ] = _DEFAULT.backbone_lr,
    layer_decay: Annotated[
        float, Setting("Factor on the learning rate from each stage to the one before it.", minimum=0, maximum=1)
    ] = _DEFAULT.layer_decay,
    optimizer: Annotated[str, Setting("sgd, adamw, or any name that timm.optim knows.")] = _DEFAULT.optimizer,
    momentum: Annotated[float, Setting("Of optimizers that have one.", minimum=0, maximum=1)] = _DEFAULT.momentum,
    weight_decay: Annotated[
        float, Setting("Pull of the weights to zero; norms and biases are spared.", minimum=0)
    ] = _DEFAULT.weight_decay,
    schedule: Annotated[Schedule, Setting("Course of the learning rate after the warm-up.")] = _DEFAULT.schedule,
    warmup: Annotated[
        float, Setting("Share of the steps in which the learning rate rises.", minimum=0, maximum=1)
    ] = _DEFAULT.warmup,
    accumulate: Annotated[int, Setting("Steps whose gradients are summed up.", minimum=1)] = _DEFAULT.accumulate,
    clip: Annotated[float, Setting("Largest norm of the gradient; 0 for any.", minimum=0)] = _DEFAULT.clip,
    frozen_norm: Annotated[bool, Setting("Keep the statistics of batch norms as they are.")] = _DEFAULT.frozen_norm,
    frozen_stages: Annotated[
        int, Setting("Stages of the network, from the input on, that stay as they are.", minimum=0)
    ] = _DEFAULT.frozen_stages,
    loss: Annotated[Loss, Setting("What is minimized.")] = _DEFAULT.loss,
    smoothing: Annotated[float, Setting("Label smoothing.", minimum=0, maximum=0.9)] = _DEFAULT.smoothing,
    focal_gamma: Annotated[float, Setting("Exponent of the focal loss.", minimum=0)] = _DEFAULT.focal_gamma,
    l2_sp: Annotated[float, Setting("Pull of the weights to the pretrained ones.", minimum=0)] = _DEFAULT.l2_sp,
    dropout: Annotated[
        float | None, Setting("Dropout before the classifier; by default the model's.", minimum=0, maximum=0.9)
    ] = None,
    drop_path: Annotated[
        float | None, Setting("Share of residual blocks skipped at random.", minimum=0, maximum=0.9)
    ] = None,
    ema: Annotated[
        float, Setting("Decay of the weights' moving average; 0 for none.", minimum=0, maximum=0.99999)
    ] = _DEFAULT.ema,
    patience: Annotated[
        int, Setting("Epochs without improvement before training stops; 0 for never.", minimum=0)
    ] = _DEFAULT.patience,
    crop: Annotated[
        float,
        Setting(
            "Smallest share of the image that a random crop keeps; 1 for the central crop.", minimum=0.01, maximum=1
        ),
    ] = _DEFAULT.crop,
    flip: Annotated[Flip, Setting("Random mirroring.")] = _DEFAULT.flip,
    policy: Annotated[Policy, Setting("Random changes of color and shape.")] = _DEFAULT.policy,
    magnitude: Annotated[float, Setting("Strength of the policy.", minimum=0, maximum=10)] = _DEFAULT.magnitude,
    erasing: Annotated[
        float, Setting("Share of images with a rectangle erased.", minimum=0, maximum=1)
    ] = _DEFAULT.erasing,
    mixup: Annotated[float, Setting("Strength of mixup; 0 for off.", minimum=0)] = _DEFAULT.mixup,
    cutmix: Annotated[float, Setting("Strength of CutMix; 0 for off.", minimum=0)] = _DEFAULT.cutmix,
    teacher: Annotated[Path | None, Setting("Artifact whose answers the network learns from, too.")] = None,
    teacher_weight: Annotated[
        float, Setting("Share of the teacher's answers in the loss.", minimum=0, maximum=1)
    ] = _DEFAULT.teacher_weight,
    teacher_temperature: Annotated[
        float, Setting("Softens the teacher's answers.", minimum=0.1)
    ] = _DEFAULT.teacher_temperature,
    teacher_features: Annotated[
        float, Setting("Weight of the distance to the teacher's features; 0 for none.", minimum=0)
    ] = _DEFAULT.teacher_features,
    qat: Annotated[
        bool, Setting("Train an artifact quantized: with the rounding to int8 that quantize will do, scales included.")
    ] = False,
    for_: Annotated[
        Literal["onnxruntime", "openvino", "tensorrt"], Setting("With --qat: the runtime it will be quantized for.")
    ] = "onnxruntime",
    reduce_range: Annotated[
        Literal["auto", "on", "off"],
        Setting("With --qat: weights of half the int8 range; auto where integer sums saturate on this processor."),
    ] = "auto",
    precision: Annotated[
        Precision, Setting("Of the arithmetic; auto takes what is fastest here.")
    ] = _DEFAULT.precision,
    compile_: Annotated[bool, Setting("Compile the network with torch.compile.")] = _DEFAULT.compile,
    resume: Annotated[bool, Setting("Go on from the checkpoint of an interrupted run.")] = False,
    cache_dir: Annotated[Path | None, Setting("Folder for decoded images; by default ~/.cache/tlopt.")] = None,
    cache_gb: Annotated[float, Setting("Size this folder may have, GB; 0 keeps nothing.", minimum=0)] = 20.0,
    tensorboard: Annotated[bool, Setting("Write TensorBoard events into the artifact.")] = False,
) -> Card:
    """Fine-tune a pretrained network on labelled images.

    With `qat` a torch artifact is trained as it will compute in int8 (quantization-aware training): export
    and quantize take the trained scales over, and the metrics are those of the rounded network.

    Of several processes that torchrun started, the first makes the artifact and goes on alone.

    Raises:
        SettingError: A setting does not fit, or the batch cannot be shared among the processes.
        ImagesError: The images cannot be used, or none is left for validation.
        StageError: The loss is no number or explodes, or the disk is full; the last checkpoint stands.
        SystemExit: With code 0, in every process but the first, when training is over.
    """
    given = dict(locals())
    names = {field.name for field in dataclasses.fields(Hyperparameters)} - {"compile", "moves"}
    settings = Hyperparameters(**{name: given[name] for name in names}, compile=compile_)
    if qat:
        method, settings = _quantized(source, method, settings)
    elif reduce_range != "auto":
        raise SettingError(
            f"reduce_range is for quantization-aware training, got {reduce_range}.", hint="Add --qat, or leave it out."
        )
    if teacher is not None:
        Artifact.load(teacher)  # a wrong one is told before images are decoded
    ref, parts = _images(source, images, val=val, test=test, seed=seed)
    from tlopt.training import distributed

    with distributed.group():
        run = _Run(
            parts=parts,
            network=_network(source, model, weights, len(parts["train"].classes), image_size, dropout, drop_path, seed),
            settings=settings,
            method=method,
            fresh=isinstance(source, ImageFolder),
            qat=for_ if qat else None,
            reduced=qat and reduced_range(for_, reduce_range),
            sparse=_inherited(source).get("pruned", {}).get("sparsity") == "2:4",
            teacher=teacher,
            cache=cache_dir or default_cache(),
            cache_gb=cache_gb,
        )
        # Of several processes only the leader shows its progress: in an empty context bars are silent.
        context = contextvars.copy_context() if distributed.rank() == 0 else contextvars.Context()
        outcome, unreadable, trained = context.run(run.train, checkpoint_folder(out), resume=resume)
    if distributed.rank() > 0:
        # The leader alone makes the artifact. Were the others to return, what the caller's script does next, they
        # would all do at once, to the same files.
        raise SystemExit(0)
    from tlopt.networks.weights import save
    from tlopt.training.outcome import records

    details = {**_inherited(source), **save(run.network.module, out), **trained}
    details["metrics"] = records.write(out, outcome, parts["train"].classes, tensorboard=tensorboard)
    return Card(
        kind="torch",
        model=run.network.name,
        precision="fp32",
        classes=parts["train"].classes,
        preprocess=run.network.preprocess,
        images=ref,
        details={**details, "unreadable": unreadable},
    )


def _quantized(
    source: ImageFolder | Artifact, method: Method, settings: Hyperparameters
) -> tuple[Method, Hyperparameters]:
    """Return the method and settings of quantization-aware training.

    Raises:
        SettingError: The source, or a setting, does not go with it.
    """
    if not isinstance(source, Artifact):
        raise SettingError(
            f"qat goes on from a trained artifact, got the folder of images {source.path}.",
            hint="Run tlopt finetune IMAGES -o TUNED first, then tlopt finetune TUNED --qat.",
        )
    wrong = {
        f"method {method}": method not in ("lp-ft", "full"),
        f"precision {settings.precision}": settings.precision not in ("auto", "fp32"),
        "compile": settings.compile,
        "teacher_features": settings.teacher_features > 0,
    }
    if found := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise SettingError(
            f"qat trains all layers in fp32, as the exported graph computes them; it does not go with {found[0]}.",
            hint="Leave one of them out.",
        )
    return "full", dataclasses.replace(settings, precision="fp32")


def _inherited(source: ImageFolder | Artifact) -> dict[str, Any]:
    """Return what a card says about pruning: it stays true while the network trains."""
    details = source.card.details if isinstance(source, Artifact) else {}
    return {name: details[name] for name in ("macs", "pruned") if name in details}


def _images(
    source: ImageFolder | Artifact, moved: Path | None, *, val: float, test: float, seed: int
) -> tuple[ImagesRef, Mapping[Split, ImageFolder]]:
    """Return the reference to the images, and their parts."""
    if isinstance(source, ImageFolder):
        ref = ImagesRef(path=str(source.source.resolve()), digest=source.digest, val=val, test=test, seed=seed)
        parts = source.split(val=val, test=test, seed=seed)
    elif source.card.images is not None:
        ref, parts = source.card.images, reopen(source.card.images, moved)
    else:
        raise ImagesError(
            f"{source.path} was not trained by tlopt: its card names no images.",
            hint="tlopt finetune IMAGES --model … starts from a pretrained network.",
        )
    if not len(parts["val"]):
        raise ImagesError(
            f"None of the {sum(map(len, parts.values()))} images is left for validation.",
            hint="Give a larger --val, or add images.",
        )
    return ref, parts


@dataclass(frozen=True, kw_only=True)
class _Network:
    name: str
    module: nn.Module
    preprocess: Preprocess


def _network(
    source: ImageFolder | Artifact,
    name: str,
    weights: Path | None,
    classes: int,
    size: int | None,
    dropout: float | None,
    drop_path: float | None,
    seed: int,
) -> _Network:
    """Load the pretrained network, or that of an artifact."""
    import torch

    from tlopt import sources

    if isinstance(source, ImageFolder):
        options = {"drop_rate": dropout, "drop_path_rate": drop_path}
        given = {key: value for key, value in options.items() if value is not None}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module, preprocess = sources.load(name, classes=classes, size=size or 0, weights_file=weights, **given)
        return _Network(name=name, module=module, preprocess=preprocess)
    card = source.card
    if weights is not None or size not in (None, card.preprocess.size) or (dropout, drop_path) != (None, None):
        raise SettingError(
            f"{source.path} has its own weights and input size: weights, image_size, dropout and drop_path "
            "are for a pretrained network.",
            hint="Leave them out.",
        )
    return _Network(name=card.model, module=sources.open_model(source), preprocess=card.preprocess)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Everything that training needs."""

    parts: Mapping[Split, ImageFolder]
    network: _Network
    settings: Hyperparameters
    method: Method
    fresh: bool
    sparse: bool
    qat: Literal["onnxruntime", "openvino", "tensorrt"] | None
    reduced: bool
    teacher: Path | None
    cache: Path
    cache_gb: float

    def train(self, checkpoints: Path, *, resume: bool) -> tuple[Transfer, dict[str, str], dict[str, Any]]:
        """Train the network; return the outcome, the images left out, and what the card says of trained scales."""
        from tlopt.training import distributed
        from tlopt.training.checkpoint import Checkpoint
        from tlopt.training.transfer import transfer

        with distributed.leader_first():
            train, val = (
                open_pixels(self.parts[part], self.network.preprocess, cache=self.cache, cache_gb=self.cache_gb)
                for part in SPLITS[:2]
            )
            if distributed.world() > 1:
                # What the leader decoded, the others on its machine find in the cache.
                train.filled(label="Decoding images")
                val.filled()
        with contextlib.closing(train), contextlib.closing(val), contextlib.ExitStack() as stack:
            steps = stack.enter_context(self._rounded(train)) if self.qat is not None else None
            outcome = transfer(
                self.network.module,
                train,
                val,
                self.settings,
                method=self.method,
                fresh=self.fresh,
                sparse=self.sparse,
                teacher=self._open_teacher(stack),
                checkpoints=Checkpoint(folder=checkpoints, resume=resume),
                cache=self.cache / "features" if self.cache_gb > 0 else None,
            )
            # Threads find them in any order.
            unreadable = dict(sorted({**train.unreadable.reasons, **val.unreadable.reasons}.items()))
            trained = {"runtime": self.qat, "reduce_range": self.reduced, "scales": steps.scales()} if steps else {}
            return outcome, unreadable, {"qat": trained} if trained else {}

    def _rounded(self, images: Pixels) -> contextlib.AbstractContextManager[Steps]:
        """Round the network where its exported graph will be, to scales calibrated on training images."""
        require("onnxruntime")
        from tlopt.graphs.cleaning import clean
        from tlopt.graphs.view import View
        from tlopt.networks import tracing
        from tlopt.quantization.int8 import Scheme, calibrate
        from tlopt.quantization.qat.network import rounded
        from tlopt.quantization.qat.places import places_of

        assert self.qat is not None
        preprocess = self.network.preprocess
        proto, program = tracing.trace(self.network.module, preprocess.size, _OPSET)
        chosen = np.random.default_rng(self.settings.seed).permutation(len(images.folder))[:_CALIBRATED]
        crops = batches(images.folder.select(chosen), preprocess, batch=8, label="Calibrating")
        scheme = Scheme(runtime=self.qat, reduced=self.reduced)
        places = places_of(calibrate(View(clean(proto)), scheme, (part.inputs for part in crops)))
        # The runtime and the range are part of the name, so that a checkpoint is resumed for the same one only.
        name = f"scales_for_{self.qat}{'_reduced' * self.reduced}"
        return rounded(self.network.module, program, places, name)

    def _open_teacher(self, stack: contextlib.ExitStack) -> Teacher | None:
        """Open the teacher: a torch artifact as a network, which also shows its features, others as runners."""
        if self.teacher is None:
            return None
        from tlopt.backends import open_runner
        from tlopt.sources import open_model
        from tlopt.training.teacher import Teacher

        artifact = Artifact.load(self.teacher)
        card = artifact.card
        if card.classes != self.parts["train"].classes:
            raise ArtifactError(
                f"The teacher {self.teacher} knows {len(card.classes)} classes, first {card.classes[0]!r}; "
                f"the images have {len(self.parts['train'].classes)}, first {self.parts['train'].classes[0]!r}.",
                hint="A teacher must know exactly the classes of the images.",
            )
        if card.kind != "torch" and self.settings.teacher_features:
            raise SettingError(
                f"Only a torch artifact shows its features; {self.teacher} is of kind {card.kind}.",
                hint="Leave out --teacher-features, or name the torch artifact it was made from.",
            )
        answer = open_model(artifact) if card.kind == "torch" else stack.enter_context(open_runner(artifact))
        return Teacher(answer, own=card.preprocess, student=self.network.preprocess)
