"""How images are fed to an ONNX file, and what is put before it for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from tlopt.errors import SettingError
from tlopt.imports import interface, layout
from tlopt.preprocess import Preprocess

_USUAL = Preprocess(size=224)


def fed(proto: onnx.ModelProto, file: Path, given: dict[str, Any], *, classifier: bool) -> Preprocess:
    """Return how images are fed, and let the graph take them so, in place.

    Args:
        proto: Of one input, the image.
        file: Its name, for messages.
        given: What the user says, as fields of a `Preprocess`.
        classifier: Whether it is one. Other networks see the whole image, in whatever size the user says.

    Raises:
        ArtifactError: The file takes images of another size or number of channels.
        SettingError: Neither the file nor the user says the size, or a mean is of another number of channels.
    """
    axes = layout.layout_of(proto, file, given.get("layout"))
    sides = layout.sides_of(proto, file, axes, given.get("size"), given.get("width"), free=not classifier)
    if sides is None and not classifier:
        raise SettingError(
            f"{file} does not say the size of its input image.",
            hint="Give it: --image-size 640. Add --image-width if the image is not square.",
        )
    high, wide = sides or (_USUAL.size, _USUAL.size)
    said = {"fit": "crop" if classifier else "stretch", **given}
    said |= {"size": high, "width": 0 if wide == high else wide, "layout": axes}
    grey = layout.is_grey(proto, axes)
    if interface.whole(proto):  # pixels, as they are
        said = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3, **said}
    said = _one_channel(said) if grey else said
    if not grey and any(len(said.get(name, (0, 0, 0))) == 1 for name in ("mean", "std")):
        raise SettingError(f"{file} takes images of three channels; a mean and a std need three values.")
    plain = said.get("channels", "rgb") != "bgr" and not {"mean", "std"} & given.keys()
    folded = interface.pixels(proto) and axes == "nhwc" and plain
    if not folded:
        interface.feed_floats(proto)
    return Preprocess.from_dict({**_USUAL.to_dict(), **said, "folded": folded})


def _one_channel(said: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a grey input: of three values of a mean or std, their mean."""
    found = {**said, "channels": "grey"}
    for name in ("mean", "std"):
        values = said.get(name, getattr(_USUAL, name))
        found[name] = (sum(values) / len(values),)
    return found
