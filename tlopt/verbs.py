"""What tlopt can do: the one table of its verbs.

The package's public functions, the command line, recipes and the reference page are read from it. It
imports none of the functions, so that reading it costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Group = Literal["Make", "Measure", "Data", "Ask"]
GROUPS: tuple[Group, ...] = ("Make", "Measure", "Data", "Ask")
MOST = 60  # characters of a summary: with the longest name before it, it fits on a line of 80


@dataclass(frozen=True, kw_only=True)
class Argument:
    """A positional argument.

    Args:
        name: That of the function's parameter.
        shown: What help texts call it; its name in capitals if empty.
        required: Whether it has to be given.
        many: Whether it takes several values.
        choices: The values it takes, if they are few.
        default: The value where none is given.
    """

    name: str
    shown: str = ""
    required: bool = True
    many: bool = False
    choices: tuple[str, ...] = ()
    default: str | None = None

    @property
    def label(self) -> str:
        """What it is called in help texts and errors."""
        return self.shown or self.name.upper()


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One thing that tlopt can do: a public function, a command, and maybe a step of recipes.

    Args:
        name: What the user types; "data split" is the command split in the group data.
        at: Where its function is, ``module:function`` below ``tlopt``.
        group: Heading under which the help lists it.
        summary: What it does, in one sentence of at most 60 characters: the first line of the function's docstring.
        example: A command line that a careful user would run; a test runs it.
        takes: Its positional arguments.
        gives: "path" if it makes a folder at ``--out``, "report" if what it returns has `to_report`, "lines" if it
            returns things to be shown one by one, "study" if it does what "path" and "report" do, or only reports.
        tables: The first columns of the tables that it writes: a file that begins with others is not replaced.
        recipe: Whether recipes have it.
        python: Whether it is a function of the package: what only prints is not.
    """

    name: str
    at: str
    group: Group
    summary: str
    example: str
    takes: tuple[Argument, ...] = ()
    gives: Literal["path", "report", "lines", "study"]
    tables: tuple[tuple[str, ...], ...] = ()
    recipe: bool = False
    python: bool = True

    @property
    def module(self) -> str:
        """The module of its function, below ``tlopt``."""
        return self.at.partition(":")[0]

    @property
    def attribute(self) -> str:
        """The name of its function."""
        return self.at.partition(":")[2]

    @property
    def several(self) -> bool:
        """Whether it works on several things at once."""
        return len(self.takes) > 1 or any(argument.many for argument in self.takes)

    def function(self) -> Callable[..., Any]:
        """Import its function."""
        found: Callable[..., Any] = getattr(importlib.import_module(f"tlopt.{self.module}"), self.attribute)
        return found


_ARTIFACT = Argument(name="artifact")
_ARTIFACTS = Argument(name="artifacts", shown="ARTIFACT...", many=True)
_TWO = (Argument(name="reference"), Argument(name="candidate"))
_SOURCE = Argument(name="source", shown="ARTIFACT")
_IMAGES = Argument(name="source", shown="IMAGES")
_TIMED = (("artifact", "precision", "backend"),)

_LISTED = ("models", "sources", "backends", "quantizers", "criteria", "targets")

# In the order of the work within each group.
_VERBS = (
    Verb(
        name="import", at="stages.import_model:import_model", group="Make", gives="path", recipe=True,
        summary="Make an artifact of a pretrained model or an ONNX file.",
        example="tlopt import --model pip:efficientnet_lite0 -o runs/lite0",
        takes=(Argument(name="source", shown="[MODEL.onnx|.keras|.pt2|SAVED_MODEL]", required=False),),
    ),
    Verb(
        name="finetune", at="stages.finetune:finetune", group="Make", gives="path", recipe=True,
        summary="Fine-tune a pretrained network on labelled images.",
        example="tlopt finetune images -o runs/tuned --model pip:efficientnet_lite0",
        takes=(Argument(name="source", shown="IMAGES|ARTIFACT"),),
    ),
    Verb(
        name="adapt", at="stages.adapt:adapt", group="Make", gives="path", recipe=True,
        summary="Adapt a network to unlabelled images of a new camera.",
        example="tlopt adapt runs/tuned -o runs/adapted --images images",
        takes=(_SOURCE,),
    ),
    Verb(
        name="qat", at="stages.qat:qat", group="Make", gives="path", recipe=True,
        summary="Train a network for int8, with quantization in the loop.",
        example="tlopt qat runs/tuned -o runs/qat --epochs 2 --lr 2e-4",
        takes=(_SOURCE,),
    ),
    Verb(
        name="prune", at="stages.prune:prune", group="Make", gives="path", recipe=True,
        summary="Remove the least important channels and train the rest.",
        example="tlopt prune runs/tuned -o runs/pruned --ratio 0.3",
        takes=(_SOURCE,),
    ),
    Verb(
        name="export", at="stages.export:export", group="Make", gives="path", recipe=True,
        summary="Export a trained network to ONNX, or on to TensorRT.",
        example="tlopt export runs/tuned -o runs/fp32",
        takes=(_SOURCE,),
    ),
    Verb(
        name="quantize", at="stages.quantize:quantize", group="Make", gives="path", recipe=True,
        summary="Quantize an ONNX artifact, or cast it to half precision.",
        example="tlopt quantize runs/fp32 -o runs/int8",
        takes=(_SOURCE,),
    ),
    Verb(
        name="build", at="stages.build:build", group="Make", gives="path", recipe=True,
        summary="Build a TensorRT engine from an ONNX artifact.",
        example="tlopt build runs/fp32 -o runs/engine --target sm86,sm89",
        takes=(_SOURCE,),
    ),
    Verb(
        name="deploy", at="deployment.deploy:deploy", group="Make", gives="path",
        summary="Write all that runs an artifact elsewhere, and check it.",
        example="tlopt deploy runs/int8 -o runs/served --for bundle",
        takes=(_ARTIFACTS,),
    ),
    Verb(
        name="optimize", at="search.optimize:optimize", group="Make", gives="study", recipe=True,
        summary="Find the most accurate classifier that keeps to a budget.",
        example="tlopt optimize images -o runs/search --latency-ms 5",
        tables=(("network", "px", "precision"), ("running", "host", "since")),
        takes=(Argument(name="source", shown="[IMAGES|ARTIFACT]", required=False),),
    ),
    Verb(
        name="serve", at="deployment.serve:serve", group="Make", gives="lines",
        summary="Serve an artifact on this machine, with Triton.",
        example="tlopt serve runs/int8 --port 8000",
        takes=(_ARTIFACT,),
    ),
    Verb(
        name="run", at="recipes.recipe:run", group="Make", gives="lines",
        summary="Run the steps of a recipe that are not finished yet.",
        example="tlopt run recipe.toml --dry-run",
        takes=(Argument(name="recipe", shown="RECIPE.toml"),),
    ),
    Verb(
        name="evaluate", at="measure.evaluate:evaluate", group="Measure", gives="report",
        summary="Measure the accuracy of an artifact on labelled images.",
        example="tlopt evaluate runs/int8",
        tables=(("artifact", "backend", "images", "accuracy"),),
        takes=(_ARTIFACT,),
    ),
    Verb(
        name="compare", at="measure.compare:compare", group="Measure", gives="report", recipe=True,
        summary="Measure what an artifact has lost against another.",
        example="tlopt compare runs/fp32 runs/int8 --max-drop 0.01",
        tables=(("artifact", "backend", "images", "accuracy"), ("output", "snr_db", "cosine")),
        takes=_TWO,
    ),
    Verb(
        name="bench", at="measure.bench:bench", group="Measure", gives="report",
        summary="Measure the latency and throughput of artifacts.",
        example="tlopt bench runs/fp32 runs/int8 --batch 1,8",
        tables=_TIMED,
        takes=(_ARTIFACTS,),
    ),
    Verb(
        name="loadgen", at="measure.loadgen:loadgen", group="Measure", gives="report",
        summary="Measure artifacts with MLPerf's load generator.",
        example="tlopt loadgen runs/int8 --scenario single-stream --seconds 600",
        tables=_TIMED,
        takes=(_ARTIFACTS,),
    ),
    Verb(
        name="report", at="measure.report:report", group="Measure", gives="path", recipe=True,
        summary="Write a page on the accuracy and speed of artifacts.",
        example="tlopt report runs/fp32 runs/int8 -o runs/report",
        takes=(_ARTIFACTS,),
    ),
    Verb(
        name="choose", at="measure.choose:choose", group="Measure", gives="report",
        summary="Find the backend that runs an artifact fastest here.",
        example="tlopt choose runs/int8",
        tables=(("artifact", "backend", "batch", "p50_ms"),),
        takes=(_ARTIFACT,),
    ),
    Verb(
        name="profile", at="measure.profile:profile", group="Measure", gives="report",
        summary="Measure how long each layer of an artifact takes.",
        example="tlopt profile runs/int8 --top 10",
        tables=(("layer", "op", "ms", "share"),),
        takes=(_ARTIFACT,),
    ),
    Verb(
        name="roofline", at="measure.roofline:roofline", group="Measure", gives="report",
        summary="Measure the share of the processor's peak that is used.",
        example="tlopt roofline runs/fp32 runs/int8 --batch 1",
        tables=_TIMED,
        takes=(_ARTIFACTS,),
    ),
    Verb(
        name="drift", at="measure.drift:drift", group="Measure", gives="report",
        summary="Measure in which layers two ONNX artifacts differ.",
        example="tlopt drift runs/fp32 runs/int8",
        tables=(("tensor", "layer", "op", "error"),),
        takes=_TWO,
    ),
    Verb(
        name="rank", at="search.rank:rank", group="Measure", gives="report", recipe=True,
        summary="Rank networks by accuracy and speed, before any training.",
        example="tlopt rank images --models pip:efficientnet_lite0 --image-sizes 128,160",
        tables=(("model", "image_size", "accuracy"),),
        takes=(_IMAGES,),
    ),
    Verb(
        name="find-lr", at="measure.find_lr:find_lr", group="Measure", gives="report",
        summary="Find a learning rate for fine-tuning.",
        example="tlopt find-lr images --plot lr.svg",
        tables=(("suggested_lr", "lowest_loss", "steps"),),
        takes=(_IMAGES,),
    ),
    Verb(
        name="data audit", at="data.audit:audit", group="Data", gives="report",
        summary="Find damaged, repeated and wrongly labelled images.",
        example="tlopt data audit images --html audit.html",
        tables=(("severity", "finding", "findings"),),
        takes=(Argument(name="images"),),
    ),
    Verb(
        name="data merge", at="data.merge:merge", group="Data", gives="path",
        summary="Merge several sets of images into one.",
        example="tlopt data merge images more -o merged",
        takes=(Argument(name="sources", shown="IMAGES...", many=True),),
    ),
    Verb(
        name="data split", at="data.split:split", group="Data", gives="path",
        summary="Split images into parts to train, validate and test.",
        example="tlopt data split images -o parts --val 0.2 --test 0.2",
        takes=(Argument(name="images"),),
    ),
    Verb(
        name="predict", at="measure.predict:predict", group="Ask", gives="lines",
        summary="Classify an image, or every image in a folder.",
        example="tlopt predict runs/int8 images --top 2",
        takes=(_ARTIFACT, Argument(name="images", shown="IMAGE|DIR")),
    ),
    Verb(
        name="show", at="show:show", group="Ask", python=False, gives="report",
        summary="Show what an artifact is and how it was made.",
        example="tlopt show runs/int8",
        tables=(("step", "stage", "seconds", "source"),),
        takes=(_ARTIFACT,),
    ),
    Verb(
        name="list", at="show:list_names", group="Ask", python=False, gives="lines",
        summary="List models, or plugins of a kind, by their names.",
        example="tlopt list models pip:*",
        takes=(
            Argument(name="what", choices=_LISTED),
            Argument(name="pattern", shown="[PATTERN]", required=False, default="*"),
        ),
    ),
    Verb(
        name="doctor", at="doctor:doctor", group="Ask", gives="report",
        summary="Show what works on this machine and what is missing.",
        example="tlopt doctor",
        tables=(("part", "usable", "detail"),),
    ),
)  # fmt: skip

TABLE = {verb.name: verb for verb in _VERBS}

# A word before some commands' names, and what those have in common.
WORDS = {"data": "Check, merge and split folders of images."}
