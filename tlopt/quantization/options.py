"""The settings of quantize that travel together, and what of them does not go together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tlopt.artifact import Artifact
from tlopt.cards.details import Runtime, TrainedScales
from tlopt.errors import ArtifactError, SettingError
from tlopt.settings import MOST_IMAGES, Setting

Precision = Literal["int8", "fp16", "bf16", "fp8"]


@dataclass(frozen=True, kw_only=True)
class EightBits:
    """How a network goes to 8 bits."""

    quantizer: Annotated[
        str, Setting("Method that chooses the ranges of activations.", plugins="quantizers", group="8 bits")
    ] = "mse"
    rounding: Annotated[
        Literal["gptq", "nearest"],
        Setting(
            "How weights get 8 bits. gptq keeps the layer's output error small. nearest rounds each weight alone.",
            group="8 bits",
        ),
    ] = "gptq"
    bias_correction: Annotated[
        bool, Setting("Correct the biases for the mean error of each layer.", group="8 bits")
    ] = True
    equalization: Annotated[
        bool, Setting("First scale the channels of neighboring layers to similar ranges.", group="8 bits")
    ] = False
    reduce_range: Annotated[
        Literal["auto", "on", "off"],
        Setting(
            "Keep weights to half the int8 range. auto does so if integer sums saturate on this processor.",
            group="8 bits",
        ),
    ] = "auto"
    max_drop: Annotated[
        float | None,
        Setting(
            "Largest loss of accuracy. As few blocks as possible stay float to keep it.",
            minimum=0, maximum=1, group="8 bits", common=True,
        ),
    ] = None  # fmt: skip
    min_db: Annotated[
        float | None,
        Setting(
            "Smallest signal to noise of every output in decibels, of a network that is no classifier. As few blocks "
            "as possible stay float to keep it.",
            minimum=0, maximum=100, group="8 bits",
        ),
    ] = None  # fmt: skip
    float_blocks: Annotated[
        tuple[str, ...],
        Setting(
            "Names of blocks that stay float. An unknown name is answered with all names. first stands for the first "
            "block.",
            metavar="NAME,…", group="8 bits",
        ),
    ] = ()  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """Which images a network is calibrated on."""

    images: Annotated[
        Path | None,
        Setting("Folder of images for calibration. Default: the training images.", group="Calibration", common=True),
    ] = None
    samples: Annotated[
        int,
        Setting("Number of images for calibration.", minimum=1, maximum=MOST_IMAGES, group="Calibration", common=True),
    ] = 256
    batch: Annotated[
        int,
        Setting(
            "Images per run, if the graph takes any number of images.", minimum=1, maximum=256, group="Calibration"
        ),
    ] = 8
    seed: Annotated[int, Setting("Seed of the choice of images.", minimum=0, group="Calibration")] = 0


def limit_of(how: EightBits) -> float | None:
    """Return the largest loss that float blocks are chosen for: of accuracy, or the share of noise; None for any."""
    return how.max_drop if how.min_db is None else 10 ** (-how.min_db / 10)


def check_precision(precision: Precision, for_: Runtime, how: EightBits) -> None:
    """Refuse settings that do not go together.

    Raises:
        SettingError: One does not fit the precision, or the runtime lacks the precision.
    """
    if precision == "fp8" and for_ != "tensorrt":
        raise SettingError(
            f"{for_} has no fp8 kernels. TensorRT has fp8 kernels for sm89 and newer.", hint="Add --for tensorrt."
        )
    for name, given in (
        ("max_drop", how.max_drop is not None), ("min_db", how.min_db is not None),
        ("reduce_range", how.reduce_range != "auto"),
    ):  # fmt: skip
        if given and precision != "int8":
            hint = f"Leave --{name.replace('_', '-')} out."
            raise SettingError(f"{name} is for int8, got precision {precision}.", hint=hint)
    if how.max_drop is not None and how.min_db is not None:
        raise SettingError("max_drop is for classifiers, and min_db for other networks.", hint="Leave one of them out.")
    if how.equalization and precision not in ("int8", "fp8"):
        raise SettingError(
            f"equalization is for int8 and fp8, got precision {precision}.", hint="Leave --equalization out."
        )


def refuse(source: Artifact, how: EightBits) -> None:
    """Refuse settings that do not go with a source.

    Raises:
        ArtifactError: The source is quantized already.
        SettingError: A setting is for another kind of network.
    """
    refuse_quantized(source, source.card.precision)
    if how.max_drop is not None and source.card.task == "any":
        raise SettingError(
            f"max_drop is for classifiers, and {source.path} is none.",
            hint="Use --min-db 20: it limits the outputs' error.",
        )
    if how.min_db is not None and source.card.task == "classify":
        raise SettingError(
            f"min_db is for networks that are no classifiers, and {source.path} is one.", hint="Use --max-drop 0.01."
        )


def refuse_quantized(source: Artifact, precision: str) -> None:
    """Refuse an artifact in any precision but fp32.

    Args:
        source: The artifact.
        precision: What its card, or its file, says.

    Raises:
        ArtifactError: It is quantized already.
    """
    if precision != "fp32":
        came_so = [step.stage for step in source.card.lineage] == ["import"]
        raise ArtifactError(
            f"{source.path} is in {precision} already; quantize takes an fp32 artifact.",
            hint="Import the ONNX file that it was converted from, in fp32."
            if came_so
            else "Quantize the fp32 artifact that it was made from; tlopt export makes one.",
        )


def trained_scales(source: Artifact, runtime: str, how: EightBits) -> TrainedScales | None:
    """Return the scales that a network was trained with, None if it was trained in float.

    Raises:
        SettingError: They are for another runtime or range, or weights are to be changed.
    """
    found = source.card.onnx.qat
    if found is None:
        return None
    if found.runtime != runtime:
        raise SettingError(
            f"{source.path} was trained to be quantized for {found.runtime}, not for {runtime}.",
            hint=f"Add --for {found.runtime}, or train with tlopt qat --for {runtime}.",
        )
    if how.equalization:
        raise SettingError(
            f"{source.path} was trained by qat. equalization would change its trained weights.",
            hint="Leave --equalization out.",
        )
    if how.reduce_range not in ("auto", "on" if found.reduce_range else "off"):
        raise SettingError(
            f"{source.path} was trained with weights of {'half' if found.reduce_range else 'all'} the int8 range.",
            hint=f"Leave --reduce-range out, or train with tlopt qat --reduce-range {how.reduce_range}.",
        )
    return found
