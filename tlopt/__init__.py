"""tlopt: from a folder of images and a pretrained CNN to a verified, benchmarked engine.

Each command of the command line is a function of the same name here, with the same settings:
``tlopt.finetune("images", "runs/tuned", model="pip:efficientnet_lite0", epochs=3)``. A name is
imported when it is first used, so ``import tlopt`` is immediate and does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tlopt import verbs as _verbs
from tlopt.process import cpu as _cpu
from tlopt.process import telemetry as _telemetry

if TYPE_CHECKING:  # for type checkers and editors; a test holds it against the names below
    from tlopt.artifact import Artifact as Artifact
    from tlopt.backends import open_runner as open_runner
    from tlopt.cards.card import Card as Card
    from tlopt.cards.card import ImagesRef as ImagesRef
    from tlopt.cards.card import Step as Step
    from tlopt.data.audit import audit as audit
    from tlopt.data.merge import merge as merge
    from tlopt.data.split import split as split
    from tlopt.deployment.deploy import deploy as deploy
    from tlopt.deployment.serve import serve as serve
    from tlopt.doctor import doctor as doctor
    from tlopt.errors import ArtifactError as ArtifactError
    from tlopt.errors import CheckError as CheckError
    from tlopt.errors import ImagesError as ImagesError
    from tlopt.errors import MissingLibraryError as MissingLibraryError
    from tlopt.errors import OutputExistsError as OutputExistsError
    from tlopt.errors import PluginError as PluginError
    from tlopt.errors import SettingError as SettingError
    from tlopt.errors import StageError as StageError
    from tlopt.errors import StudyError as StudyError
    from tlopt.errors import TloptError as TloptError
    from tlopt.images import ImageFolder as ImageFolder
    from tlopt.images import scan as scan
    from tlopt.measure.bench import bench as bench
    from tlopt.measure.choose import choose as choose
    from tlopt.measure.compare import compare as compare
    from tlopt.measure.drift import drift as drift
    from tlopt.measure.evaluate import evaluate as evaluate
    from tlopt.measure.find_lr import find_lr as find_lr
    from tlopt.measure.loadgen import loadgen as loadgen
    from tlopt.measure.predict import predict as predict
    from tlopt.measure.profile import profile as profile
    from tlopt.measure.report import report as report
    from tlopt.measure.roofline import roofline as roofline
    from tlopt.preprocess import Preprocess as Preprocess
    from tlopt.recipes.recipe import run as run
    from tlopt.reports import Report as Report
    from tlopt.search.optimize import optimize as optimize
    from tlopt.search.rank import rank as rank
    from tlopt.sources import open_model as open_model
    from tlopt.stages.adapt import adapt as adapt
    from tlopt.stages.build import build as build
    from tlopt.stages.export import export as export
    from tlopt.stages.finetune import finetune as finetune
    from tlopt.stages.import_model import import_model as import_model
    from tlopt.stages.prune import prune as prune
    from tlopt.stages.qat import qat as qat
    from tlopt.stages.quantize import quantize as quantize
    from tlopt.trusted import trust as trust

__version__ = "0.2.0"

_cpu.share_cores()  # before anything imports torch
_telemetry.switch_off()  # before anything imports ONNX Runtime

# What is no verb: public name -> the module that defines it.
_OTHERS = {
    "Artifact": "artifact",
    "ArtifactError": "errors",
    "Card": "cards.card",
    "CheckError": "errors",
    "ImageFolder": "images",
    "ImagesError": "errors",
    "ImagesRef": "cards.card",
    "MissingLibraryError": "errors",
    "OutputExistsError": "errors",
    "PluginError": "errors",
    "Preprocess": "preprocess",
    "Report": "reports",
    "SettingError": "errors",
    "StageError": "errors",
    "StudyError": "errors",
    "Step": "cards.card",
    "TloptError": "errors",
    "open_model": "sources",
    "open_runner": "backends",
    "scan": "images",
    "trust": "trusted",
}
_PUBLIC = _OTHERS | {verb.attribute: verb.module for verb in _verbs.TABLE.values() if verb.python}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
