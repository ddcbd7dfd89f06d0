"""tlopt: from a folder of images and a pretrained CNN to a verified, benchmarked engine.

Each command of the command line is a function of the same name here, with the same settings:
``tlopt.finetune("photos", "runs/tuned", model="pip:efficientnet_lite0", epochs=3)``. A name is
imported when it is first used, so ``import tlopt`` is immediate and does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlopt.artifact import Artifact
    from tlopt.backends import open_runner
    from tlopt.card import Card, ImagesRef, Step
    from tlopt.data.audit import audit
    from tlopt.data.merge import merge
    from tlopt.data.split import split
    from tlopt.doctor import doctor
    from tlopt.errors import (
        ArtifactError,
        CheckError,
        ImagesError,
        MissingLibraryError,
        OutputExistsError,
        PluginError,
        SettingError,
        StageError,
        TloptError,
    )
    from tlopt.images import ImageFolder, scan
    from tlopt.measure.bench import bench
    from tlopt.measure.choose import choose
    from tlopt.measure.compare import compare
    from tlopt.measure.drift import drift
    from tlopt.measure.evaluate import evaluate
    from tlopt.measure.find_lr import find_lr
    from tlopt.measure.predict import predict
    from tlopt.measure.profile import profile
    from tlopt.measure.report import report
    from tlopt.measure.roofline import roofline
    from tlopt.preprocess import Preprocess
    from tlopt.recipe import run
    from tlopt.reports import Report
    from tlopt.sources import open_model
    from tlopt.stages.build import build
    from tlopt.stages.export import export
    from tlopt.stages.finetune import finetune
    from tlopt.stages.import_model import import_model
    from tlopt.stages.prune import prune
    from tlopt.stages.qat import qat
    from tlopt.stages.quantize import quantize
    from tlopt.trusted import trust

__version__ = "0.1.0"

# Public name -> the module that defines it.
_PUBLIC = {
    "Artifact": "artifact",
    "ArtifactError": "errors",
    "Card": "card",
    "CheckError": "errors",
    "ImageFolder": "images",
    "ImagesError": "errors",
    "ImagesRef": "card",
    "MissingLibraryError": "errors",
    "OutputExistsError": "errors",
    "PluginError": "errors",
    "Preprocess": "preprocess",
    "Report": "reports",
    "SettingError": "errors",
    "StageError": "errors",
    "Step": "card",
    "TloptError": "errors",
    "audit": "data.audit",
    "bench": "measure.bench",
    "build": "stages.build",
    "choose": "measure.choose",
    "compare": "measure.compare",
    "doctor": "doctor",
    "drift": "measure.drift",
    "evaluate": "measure.evaluate",
    "export": "stages.export",
    "find_lr": "measure.find_lr",
    "finetune": "stages.finetune",
    "import_model": "stages.import_model",
    "merge": "data.merge",
    "open_model": "sources",
    "open_runner": "backends",
    "predict": "measure.predict",
    "profile": "measure.profile",
    "prune": "stages.prune",
    "qat": "stages.qat",
    "quantize": "stages.quantize",
    "roofline": "measure.roofline",
    "run": "recipe",
    "scan": "images",
    "split": "data.split",
    "trust": "trusted",
    "report": "measure.report",
}

__all__ = [
    "Artifact",
    "ArtifactError",
    "Card",
    "CheckError",
    "ImageFolder",
    "ImagesError",
    "ImagesRef",
    "MissingLibraryError",
    "OutputExistsError",
    "PluginError",
    "Preprocess",
    "Report",
    "SettingError",
    "StageError",
    "Step",
    "TloptError",
    "audit",
    "bench",
    "build",
    "choose",
    "compare",
    "doctor",
    "drift",
    "evaluate",
    "export",
    "find_lr",
    "finetune",
    "import_model",
    "merge",
    "open_model",
    "open_runner",
    "predict",
    "profile",
    "prune",
    "qat",
    "quantize",
    "report",
    "roofline",
    "run",
    "scan",
    "split",
    "trust",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
