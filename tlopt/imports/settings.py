"""The settings of import that travel together."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from tlopt.cards.details import AnswerKind, Task
from tlopt.errors import SettingError
from tlopt.imports.presets import preset as preset_of
from tlopt.settings import Setting


@dataclass(frozen=True, kw_only=True)
class Feeding:
    """How images are preprocessed for a network; what is None is the network's own."""

    image_size: Annotated[
        int | None,
        Setting(
            "Side of the square input image in pixels, or its height if --image-width is given.",
            minimum=8, maximum=4096, group="Images", common=True,
        ),
    ] = None  # fmt: skip
    image_width: Annotated[
        int | None,
        Setting(
            "Width of the input image in pixels, if it is no square. Default: that of the ONNX file.",
            minimum=8, maximum=4096, group="Images",
        ),
    ] = None  # fmt: skip
    fit: Annotated[
        Literal["crop", "stretch", "pad"] | None,
        Setting(
            "What is done to an image with sides of another ratio than the input's. crop cuts its center out. "
            "stretch resizes it. pad fills up with grey. Default: crop, or stretch with --task any.",
            group="Images",
        ),
    ] = None
    crop_ratio: Annotated[
        float | None,
        Setting(
            "Share of the image's shorter side that the central crop keeps.", minimum=0.1, maximum=1, group="Images"
        ),
    ] = None
    interpolation: Annotated[
        Literal["nearest", "bilinear", "bicubic", "lanczos"] | None,
        Setting("Filter that resizes images.", group="Images"),
    ] = None
    preset: Annotated[
        str | None,
        Setting(
            "Family whose mean, std and channels are taken: torchvision, tf, caffe, 0..1, 0..255, -1..1 or "
            "keras:mobilenet_v2 and its like.",
            metavar="NAME", group="Images", common=True,
        ),
    ] = None  # fmt: skip
    mean: Annotated[
        tuple[float, ...] | None,
        Setting("Mean of each color channel, on a scale from 0 to 1.", metavar="R,G,B", group="Images", common=True),
    ] = None
    std: Annotated[
        tuple[float, ...] | None,
        Setting(
            "Standard deviation of each color channel, on a scale from 0 to 1.",
            metavar="R,G,B", group="Images", common=True,
        ),
    ] = None  # fmt: skip
    layout: Annotated[
        Literal["nchw", "nhwc"] | None,
        Setting("Order of the axes of an ONNX file's input. Default: found from its shape.", group="Images"),
    ] = None
    channels: Annotated[
        Literal["rgb", "bgr"] | None,
        Setting("Order of the color channels of an ONNX file's input. Default: that of the preset, or rgb.",
                group="Images"),
    ] = None  # fmt: skip

    def given(self) -> dict[str, Any]:
        """Return what the user says, as fields of a `Preprocess`.

        Raises:
            SettingError: A setting has neither three values nor one, or the preset is unknown.
        """
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None and len(value) not in (1, 3):
                raise SettingError(
                    f"{name} needs three values, or one for grey images, got {len(value)}.",
                    hint=f"--{name} 0.5,0.5,0.5",
                )
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        own["size"], own["width"] = own.pop("image_size"), own.pop("image_width")
        chosen = preset_of(self.preset) if self.preset is not None else {}
        del own["preset"]
        return {**chosen, **{name: value for name, value in own.items() if value is not None}}


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Where the image enters an ONNX file, and what it answers."""

    task: Annotated[
        Task,
        Setting(
            "What an ONNX file is for. classify has a number for each class. any is a detector, a segmenter, an "
            "embedder or whatever else.",
            group="ONNX file", common=True,
        ),
    ] = "classify"  # fmt: skip
    input_: Annotated[
        str | None,
        Setting("Input of an ONNX file that is the image, if it has several.", metavar="NAME", group="ONNX file"),
    ] = None
    output: Annotated[
        str | None,
        Setting(
            "Tensor of an ONNX file that is the answer, if it has several outputs. With --task any the outputs to "
            "keep, with commas between.",
            metavar="NAME,…", group="ONNX file",
        ),
    ] = None  # fmt: skip
    answers: Annotated[
        AnswerKind | None,
        Setting(
            "What the numbers of an ONNX file's output mean. sigmoids are a probability for each class by itself. "
            "Default: found by running it.",
            group="ONNX file",
        ),
    ] = None
