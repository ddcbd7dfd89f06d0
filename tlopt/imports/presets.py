"""How the usual families of networks are fed.

The modes of Keras are those of ``keras.applications.imagenet_utils.preprocess_input``, keras 3.15.
"""

from __future__ import annotations

from typing import Any

from tlopt.errors import SettingError, suggestion

_RAW = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3, "channels": "rgb"}
_TORCH = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "channels": "rgb"}
_TF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "channels": "rgb"}
_CAFFE = {"mean": (103.939 / 255, 116.779 / 255, 123.68 / 255), "std": (1 / 255,) * 3, "channels": "bgr"}

_KERAS = {
    **dict.fromkeys(("resnet", "vgg16", "vgg19"), _CAFFE),
    **dict.fromkeys(
        ("inception_resnet_v2", "inception_v3", "mobilenet", "mobilenet_v2", "nasnet", "resnet_v2", "xception"), _TF
    ),
    "densenet": _TORCH,
    # They scale and normalize inside.
    **dict.fromkeys(("convnext", "efficientnet", "efficientnet_v2", "mobilenet_v3"), _RAW),
}
PRESETS: dict[str, dict[str, Any]] = {
    "0..1": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "channels": "rgb"},
    "0..255": _RAW,
    "-1..1": _TF,
    "tf": _TF,
    "torchvision": _TORCH,
    "caffe": _CAFFE,
    **{f"keras:{name}": fields for name, fields in sorted(_KERAS.items())},
}


def preset(name: str) -> dict[str, Any]:
    """Return the mean, the standard deviation and the channels of a family, as fields of a `Preprocess`.

    Raises:
        SettingError: The family is unknown.
    """
    if name not in PRESETS:
        raise SettingError(f"There is no preset {name!r}.", hint=suggestion(name, PRESETS))
    return PRESETS[name]
