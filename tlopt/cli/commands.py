"""The commands: which function each runs, what it takes besides settings, and how it shows its result."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tlopt import trusted
from tlopt.cli import terminal
from tlopt.cli.options import given, setting_options
from tlopt.progress import display
from tlopt.publishing import refuse_existing
from tlopt.settings import check

Function = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A command.

    Args:
        at: Where its function is, ``module:function`` below ``tlopt``.
        example: A command line for the help text; a test runs it.
        arguments: Its positional arguments.
        options: Options that are not settings of the function.
        body: Calls the function and shows the result.
    """

    at: str
    example: str
    body: Callable[..., int | None]
    arguments: tuple[click.Argument, ...] = ()
    options: tuple[click.Option, ...] = ()


def summary(entry: Entry) -> str:
    """Return the first line of the docstring of an entry's function, without importing its module."""
    module, _, attribute = entry.at.partition(":")
    file = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    signature = rf"^def {attribute}\((?:[^\n]*|.*?^)\) -> [^\n]*:\n"
    found = re.search(signature + r' +"""([^\n"]*)', file.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found, entry.at
    return found[1].strip()


def make(name: str, entry: Entry) -> click.Command:
    """Make the Click command of an entry; imports the module of its function."""
    module, _, attribute = entry.at.partition(":")
    function = getattr(importlib.import_module(f"tlopt.{module}"), attribute)
    own = {option.name for option in entry.options}
    settings = setting_options(function, without=tuple(str(o) for o in own))

    def run(**values: Any) -> int | None:
        verbose, quiet = values.pop("verbose"), values.pop("quiet")
        values.pop("debug")
        terminal.set_up_logging(-1 if quiet else verbose)
        with trusted.trusting((values.pop("trust") or "").split(",")):
            if quiet:
                return entry.body(function, **values)
            token = display.set(terminal.progress)
            try:
                return entry.body(function, **values)
            finally:
                display.reset(token)

    text = inspect.getdoc(function) or ""
    return click.Command(
        name.rpartition(" ")[2],
        params=[*entry.arguments, *entry.options, *settings, *_common()],
        callback=run,
        help=_prose(text),
        short_help=text.partition("\n")[0],
        epilog=f"Example: {entry.example}",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


def _prose(docstring: str) -> str:
    """Return a docstring up to its first section, which is for readers of the code."""
    for section in ("Args:", "Returns:", "Raises:", "Yields:"):
        docstring = docstring.partition(f"\n{section}")[0]
    return docstring.replace("``", "").strip()


def _common() -> list[click.Option]:
    return [
        click.Option(
            ["--trust"], metavar="MODULE,…", help="Modules of your own that artifacts and recipes may name and run."
        ),
        click.Option(["-v", "--verbose"], count=True, help="Say what is done; twice for all there is to say."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Show neither progress nor warnings."),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
    ]


def _make_artifact(function: Function, *, source: str | None = None, out: str, force: bool, **values: Any) -> None:
    click.echo(function(source, out, force=force, **check(function, given(values))).path)


def _make_folder(function: Function, *, out: str, force: bool, source: Any, **values: Any) -> None:
    function(source, out, force=force, **given(values))
    click.echo(out)


def _show_report(report: Any, *, as_json: bool, csv: str | None = None, markdown: str | None = None) -> None:
    """Show a report and write it where asked; then fail if it carries a breached gate."""
    click.echo(report.to_json() if as_json else report.table(color=terminal.colored()))
    if csv:
        Path(csv).write_text(report.to_csv(), encoding="utf-8")
    if markdown:
        Path(markdown).write_text(report.to_markdown(), encoding="utf-8")
    report.check()


def _apart(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how to show a report, and the settings of the function that makes it."""
    shown = {option.name: values.pop(option.name) for option in _REPORT if option.name}
    return shown, given(values)


def _evaluate(function: Function, *, artifact: str, **values: Any) -> None:
    shown, settings = _apart(values)
    evaluation = function(artifact, **settings)
    _show_report(evaluation.to_report(), **shown)
    if not shown["as_json"] and len(evaluation.scores) <= _MOST_CLASSES:
        click.echo(evaluation.by_class().table(color=terminal.colored()))
    if not shown["as_json"] and evaluation.origins:
        click.echo(evaluation.by_origin().table(color=terminal.colored()))


_MOST_CLASSES = 30  # that still make a table to read; --json has all


def _compare(function: Function, *, reference: str, candidate: str, **values: Any) -> None:
    shown, settings = _apart(values)
    comparison = function(reference, candidate, **settings)
    if comparison.layers is not None and not shown["as_json"]:
        click.echo(comparison.layers.table(color=terminal.colored()))
    _show_report(comparison.to_report(), **shown)


def _bench(function: Function, *, artifacts: tuple[str, ...], **values: Any) -> None:
    shown, settings = _apart(values)
    _show_report(function(artifacts, **settings), **shown)


def _measure(function: Function, *, artifact: str, **values: Any) -> None:
    shown, settings = _apart(values)
    _show_report(function(artifact, **settings), **shown)


def _drift(function: Function, *, reference: str, candidate: str, **values: Any) -> None:
    shown, settings = _apart(values)
    _show_report(function(reference, candidate, **settings), **shown)


def _choose(function: Function, *, artifact: str, as_json: bool, **values: Any) -> None:
    choice = function(artifact, **given(values))
    click.echo(choice.report.to_json() if as_json else choice.report.table(color=terminal.colored()))


def _report(function: Function, *, artifacts: tuple[str, ...], out: str, force: bool, **values: Any) -> None:
    if not force:
        refuse_existing(Path(out))
    report = function(artifacts, Path(out), **given(values))
    click.echo(report.table(color=terminal.colored()), err=True)
    click.echo(str(Path(out)))


def _predict(function: Function, *, artifact: str, images: str, as_json: bool, **values: Any) -> None:
    for prediction in function(artifact, images, **given(values)):
        click.echo(json.dumps(prediction.to_dict()) if as_json else prediction.line())


def _audit(function: Function, *, images: str, as_json: bool, force: bool, **values: Any) -> None:
    found = function(images, force=force, **given(values))
    click.echo(found.to_json() if as_json else found.to_report().table(color=terminal.colored()))


def _run(function: Function, *, recipe: str, **values: Any) -> None:
    for step in function(recipe, **given(values)):
        click.echo(step.line())


def _show(function: Function, *, artifact: str, as_json: bool) -> None:
    report = function(artifact)
    click.echo(report.to_json() if as_json else report.table(color=terminal.colored()))


def _list(function: Function, *, what: str, pattern: str) -> None:
    for name in function(what, pattern):
        click.echo(name)


def _doctor(function: Function, *, as_json: bool, **values: Any) -> None:
    _show_report(function(**given(values)), as_json=as_json)


def _find_lr(function: Function, *, source: str, as_json: bool, **values: Any) -> None:
    _show_report(function(source, **given(values)), as_json=as_json)


def _argument(name: str, metavar: str = "", *, required: bool = True, many: bool = False) -> click.Argument:
    return click.Argument([name], metavar=metavar or None, required=required, nargs=-1 if many else 1)


_OUT = click.Option(["out", "-o", "--out"], required=True, metavar="DIR", help="Folder to make.")
_FORCE = click.Option(["--force"], is_flag=True, help="Replace what is at --out.")
_JSON = click.Option(["as_json", "--json"], is_flag=True, help="Print JSON.")


def _in_a_folder(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse a file that could not be written, before anything is measured."""
    if value and Path(value).is_dir():
        raise click.BadParameter(f"{value} is a folder: name a file in it", context, parameter)
    if value and not Path(value).parent.is_dir():
        raise click.BadParameter(f"there is no folder {Path(value).parent}: make it first", context, parameter)
    return value


_REPORT = (
    _JSON,
    click.Option(["--csv"], metavar="FILE", callback=_in_a_folder, help="Write the rows to a CSV file, too."),
    click.Option(["--markdown"], metavar="FILE", callback=_in_a_folder, help="Write the rows to a Markdown file, too."),
)
_WRITES = (_OUT, _FORCE)

_stage = functools.partial(Entry, body=_make_artifact, options=_WRITES)
_ARTIFACT = (_argument("source", "ARTIFACT"),)

GROUPS = {"data": "Look into folders of images, mend, merge and split them."}

# In the order of the work. A name of two words is a command in a group.
TABLE: dict[str, Entry] = {
    "import": _stage(
        at="stages.import_model:import_model",
        example="tlopt import --model pip:efficientnet_lite0 -o runs/lite0",
        arguments=(_argument("source", "[MODEL.onnx]", required=False),),
    ),
    "finetune": _stage(
        at="stages.finetune:finetune",
        example="tlopt finetune photos -o runs/tuned --model pip:efficientnet_lite0 --epochs 1 --image-size 32",
        arguments=(_argument("source", "IMAGES"),),
    ),
    "qat": _stage(
        at="stages.qat:qat",
        example="tlopt qat runs/tuned -o runs/qat --epochs 1 --lr 2e-4",
        arguments=_ARTIFACT,
    ),
    "prune": _stage(
        at="stages.prune:prune", example="tlopt prune runs/tuned -o runs/pruned --ratio 0.3", arguments=_ARTIFACT
    ),
    "export": _stage(at="stages.export:export", example="tlopt export runs/tuned -o runs/fp32", arguments=_ARTIFACT),
    "quantize": _stage(
        at="stages.quantize:quantize",
        example="tlopt quantize runs/fp32 -o runs/int8 --precision int8",
        arguments=_ARTIFACT,
    ),
    "build": _stage(
        at="stages.build:build",
        example="tlopt build runs/fp32 -o runs/engine --target sm86,sm89",
        arguments=_ARTIFACT,
    ),
    "evaluate": Entry(
        at="measure.evaluate:evaluate",
        example="tlopt evaluate runs/int8",
        body=_evaluate,
        arguments=(_argument("artifact"),),
        options=_REPORT,
    ),
    "compare": Entry(
        at="measure.compare:compare",
        example="tlopt compare runs/fp32 runs/int8 --max-drop 0.5",
        body=_compare,
        arguments=(_argument("reference"), _argument("candidate")),
        options=_REPORT,
    ),
    "bench": Entry(
        at="measure.bench:bench",
        example="tlopt bench runs/fp32 runs/int8 --batch 1,8 --seconds 0.2",
        body=_bench,
        arguments=(_argument("artifacts", "ARTIFACT...", many=True),),
        options=_REPORT,
    ),
    "choose": Entry(
        at="measure.choose:choose",
        example="tlopt choose runs/int8 --seconds 0.1",
        body=_choose,
        arguments=(_argument("artifact"),),
        options=(_JSON,),
    ),
    "profile": Entry(
        at="measure.profile:profile",
        example="tlopt profile runs/int8 --runs 2",
        body=_measure,
        arguments=(_argument("artifact"),),
        options=_REPORT,
    ),
    "roofline": Entry(
        at="measure.roofline:roofline",
        example="tlopt roofline runs/fp32 --batch 1 --seconds 0.1",
        body=_bench,
        arguments=(_argument("artifacts", "ARTIFACT...", many=True),),
        options=_REPORT,
    ),
    "drift": Entry(
        at="measure.drift:drift",
        example="tlopt drift runs/fp32 runs/int8",
        body=_drift,
        arguments=(_argument("reference"), _argument("candidate")),
        options=_REPORT,
    ),
    "report": Entry(
        at="measure.report:report",
        example="tlopt report runs/fp32 runs/int8 -o runs/report --seconds 0.1",
        body=_report,
        arguments=(_argument("artifacts", "ARTIFACT...", many=True),),
        options=_WRITES,
    ),
    "predict": Entry(
        at="measure.predict:predict",
        example="tlopt predict runs/int8 photos --top 2",
        body=_predict,
        arguments=(_argument("artifact"), _argument("images", "IMAGE|DIR")),
        options=(_JSON,),
    ),
    "run": Entry(
        at="recipe:run",
        example="tlopt run recipe.toml --dry-run",
        body=_run,
        arguments=(_argument("recipe", "RECIPE.toml"),),
    ),
    "show": Entry(
        at="show:show", example="tlopt show runs/int8", body=_show, arguments=(_argument("artifact"),), options=(_JSON,)
    ),
    "list": Entry(
        at="show:list_names",
        example="tlopt list models pip:*",
        body=_list,
        arguments=(
            click.Argument(["what"], type=click.Choice(["models", "sources", "backends", "quantizers", "criteria"])),
            click.Argument(["pattern"], required=False, default="*", metavar="[PATTERN]"),
        ),
    ),
    "doctor": Entry(at="doctor:doctor", example="tlopt doctor", body=_doctor, options=(_JSON,)),
    "find-lr": Entry(
        at="measure.find_lr:find_lr",
        example="tlopt find-lr photos --image-size 32 --steps 20",
        body=_find_lr,
        arguments=(_argument("source", "IMAGES"),),
        options=(_JSON,),
    ),
    "data audit": Entry(
        at="data.audit:audit",
        example="tlopt data audit photos",
        body=_audit,
        arguments=(_argument("images"),),
        options=(_JSON, click.Option(["--force"], is_flag=True, help="Replace what is at --fix and --html.")),
    ),
    "data merge": Entry(
        at="data.merge:merge",
        example="tlopt data merge photos more -o merged",
        body=_make_folder,
        arguments=(_argument("source", "IMAGES...", many=True),),
        options=_WRITES,
    ),
    "data split": Entry(
        at="data.split:split",
        example="tlopt data split photos -o parts --val 0.2 --test 0.2",
        body=_make_folder,
        arguments=(_argument("source", "IMAGES"),),
        options=_WRITES,
    ),
}
