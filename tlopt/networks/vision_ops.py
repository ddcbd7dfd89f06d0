"""Lets torchvision, and timm that imports it, load beside a CPU-only torch.

PyPI has CUDA builds of torchvision only. Beside a CPU-only torch their compiled operators do not
load, and ``import torchvision`` fails with "operator torchvision::nms does not exist" because the
package registers fake kernels for operators nobody declared. Declaring the two schemas first is
enough: no classifier calls them. Seen with torch 2.13 and torchvision 0.28; remove this module when
torchvision tolerates a missing ``_C``.
"""

from __future__ import annotations

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # a schema lives as long as its library object


def declare() -> None:
    """Make sure that the operators which ``import torchvision`` refers to are declared."""
    if _libraries:
        return
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name, schema in _SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                library.define(schema)  # type: ignore[no-untyped-call]
        _libraries.append(library)
