"""The pages that people follow: their commands run, on tiny images and a tiny network, and their sentences are short.

A block that begins with `# needs …`, or after the comment `parsed only`, is parsed and not run. One after the comment
`exit 0 or 3` may fail a check, whose verdict on a tiny network says nothing. The commands on a page of a topic are no
sequence: each runs by itself, on the artifacts of the tutorial.
"""

import ast
import importlib
import importlib.util
import itertools
import json
import re
import shlex
import shutil
import sys
import tomllib
import types
from pathlib import Path

import any_nets
import click
import numpy as np
import pytest
import tiny_models
from tiny_images import write_photos

import tlopt
from tlopt.cli import main, root
from tlopt.preprocess import Preprocess

ROOT = Path(__file__).parents[2]
FOLLOWED = [
    "README.md",
    "docs/tutorial.md",
    *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/howto/*.md")),
]
TOPICS = [f"docs/{name}.md" for name in ("data", "finetune", "measuring", "prune", "quantize")]
_BLOCK = re.compile(
    r'(?:^<!-- (parsed only|exit)[^\n]*-->\n)?^```(bash|python|toml)(?: title="([^"]+)")?\n(.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
# What is measured on a tiny network says nothing, so it need not take its time.
_SHORT = {
    "bench": ["--seconds", "0.02", "--no-memory"],
    "report": ["--seconds", "0.02"],
    "audit": ["--no-labels"],
    "loadgen": ["--seconds", "0.02"],
}
# Nor need a training on a tiny network.
_ONE_EPOCH = {"finetune": ["--epochs", "1"], "prune": ["--epochs", "1"], "qat": ["--epochs", "1"]}


def blocks(page):
    """Yield language, title, text and what is said of each block that is to be looked at."""
    for said, language, title, text in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        yield language, title, text, "needs" if text.startswith("# needs ") else said


def commands(text):
    """Yield the arguments of each command of tlopt in a shell block, and the file that its output goes to."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "tlopt" not in words or words[:2] == ["pip", "install"]:
            continue
        words = words[words.index("tlopt") + 1 :]
        target = words[words.index(">") + 1] if ">" in words else None
        yield words[: words.index(">")] if target else words, target


def parse(arguments):
    """Parse a command as click does, and run nothing."""
    command, context = root(), click.Context(root(), info_name="tlopt")
    rest = list(arguments)
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, rest)
        context = click.Context(command, context, name)
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    used = {word for word in rest if word.startswith("-") and not word.lstrip("-")[:1].isdigit()}
    assert used <= known, f"{shlex.join(arguments)}: no option {used - known}"
    command.make_parser(context).parse_args(rest)


def tiny_weights(monkeypatch):
    """Let the models whose weights a package brings be a tiny network."""
    from tlopt.sources import pip, timm

    given = Preprocess(**tiny_models.PREPROCESS)
    monkeypatch.setattr(pip, "build", lambda _, *, classes, **_options: tiny_models.cnn(classes))
    monkeypatch.setattr(pip, "load", lambda _, *, classes, **_options: (tiny_models.cnn(classes or 1000), given))
    monkeypatch.setattr(pip, "preprocess", lambda *_: given)
    monkeypatch.setattr(pip, "replace_head", timm.replace_head)


def write_images(folder):
    write_photos(folder / "images", per_class=12)
    (folder / "cells").mkdir()
    for new, old in (("sound", "blue"), ("defective", "green")):
        shutil.copytree(folder / "images" / old, folder / "cells" / new)
    first = min((folder / "cells" / "defective").iterdir())
    first.rename(first.with_name("cell0001.png"))
    (folder / "classes.txt").write_text("blue\ngreen\nred\n", encoding="utf-8")


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    """What the tutorial makes and the how-to pages go on from: runs/tuned, runs/fp32 and runs/int8."""
    folder = tmp_path_factory.mktemp("chain")
    write_images(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_weights(monkeypatch)
        tuned = tlopt.finetune(
            folder / "cells", folder / "runs/tuned", model="pip:efficientnet_lite0", epochs=1,
            cache_dir=folder / "cache",
        )  # fmt: skip
        tlopt.quantize(tlopt.export(tuned, folder / "runs/fp32"), folder / "runs/int8")
    return folder / "runs"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what the pages start from; pretrained weights are those of a tiny network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.import_module("tlopt.stages.prune"), "_STEPS", 10)  # of training after a cut
    write_images(tmp_path)
    tiny_weights(monkeypatch)


def keras_file(target):
    """Write a classifier as Keras exports one: channels last, the batch free."""
    import torch

    class ChannelsLast(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = tiny_models.cnn(3)

        def forward(self, images):
            return self.network(images.permute(0, 3, 1, 2))

    batch = {"images": {0: torch.export.Dim("n")}}
    program = torch.onnx.export(
        ChannelsLast().eval(), (torch.zeros(2, 32, 32, 3),), dynamo=True, dynamic_shapes=batch, verbose=False
    )
    program.save(target)


def run_command(arguments, target, allowed, capsys):
    short = _SHORT.get(next((word for word in arguments[:2] if word in _SHORT), ""), [])
    if "--seconds" in short and "--seconds" in arguments:
        at = arguments.index("--seconds")
        arguments = arguments[:at] + arguments[at + 2 :]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, *short])
    out = capsys.readouterr()
    assert caught.value.code in allowed, shlex.join(arguments) + "\n" + out.err
    if target:
        Path(target).write_text(out.out, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", FOLLOWED)
def test_the_blocks_of_a_page_run(page, request, workplace, capsys):
    if page.endswith("keras.md"):
        keras_file("flowers.onnx")
        classes = Path("classes.txt")
        tlopt.import_model("flowers.onnx", "runs/keras", classes=classes)  # as the .keras file would be
    elif page.endswith("any-network.md"):
        any_nets.detector().save(Path("detector.onnx"))
    elif "/howto/" in page:
        shutil.copytree(request.getfixturevalue("chain"), "runs")
    for language, title, text, said in blocks(page):
        if title:
            Path(title).write_text(text, encoding="utf-8")
        elif language == "python":
            tree = ast.parse(text)
            if page == "README.md":  # which shows the same steps twice
                shutil.rmtree("runs")
            if not said:
                exec(compile(tree, page, "exec"), {"__name__": "page"})
        elif language == "bash":
            for arguments, target in commands(text):
                parse(arguments)
                if said not in ("needs", "parsed only"):
                    run_command(arguments, target, (0, 3) if said == "exit" else (0,), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("page", TOPICS)
def test_each_command_of_a_topic_runs(page, chain, workplace, capsys):
    shutil.copytree(chain, "runs")
    shutil.copytree(chain / "tuned", "runs/imported")
    shutil.rmtree("images")
    shutil.copytree("cells", "images")  # whose classes the artifacts know
    for language, _, text, said in blocks(page):
        for arguments, _ in commands(text) if language == "bash" and said not in ("needs", "parsed only") else ():
            if "-o" in arguments:
                shutil.rmtree(arguments[arguments.index("-o") + 1], ignore_errors=True)
            run_command([*arguments, *_ONE_EPOCH.get(arguments[0], [])], None, (0,), capsys)


def test_the_commands_on_every_page_are_known():
    for page in _prose().pages():
        for language, _, text, _ in blocks(page):
            if language == "python":
                ast.parse(text)
            for arguments, _ in commands(text) if language == "bash" else ():
                parse(arguments)


def test_every_block_of_a_page_is_looked_at():
    for page in _prose().pages():
        fences = re.findall(r"^```(?:bash|python|toml)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(list(blocks(page.relative_to(ROOT)))) == len(fences), page


def _prose():
    spec = importlib.util.spec_from_file_location("prose", ROOT / "docs" / "prose.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prose_counts_sentences_and_not_code_or_tables():
    text = "# Title\n\nOne two. Three `a b c` four!\n\n| a | b |\n|---|---|\n\n    code here\n\n"
    page = text + "- Five\n  six.\n\n```\nno\n```\n"
    prose = _prose()
    assert [prose.words(sentence) for sentence in prose.sentences(page)] == [2, 3, 2]
    assert prose.percentile_90([1] * 9 + [40]) == 1
    assert prose.percentile_90([1] * 8 + [40] * 2) == 40
    assert prose.percentile_90([]) == 0


def test_links_lead_to_files():
    broken = []
    for page in _prose().pages():
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path = target.partition("#")[0]
            if path and "://" not in path and not (page.parent / path).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_the_rooms_of_the_architecture_are_in_the_order_that_import_linter_holds():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = tools["importlinter"]["contracts"][0]["layers"]
    height = {name: i for i, layer in enumerate(layers) for name in layer.split(" | ")}
    page = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    table = page.partition("<!-- rooms -->")[2].partition("<!-- end of rooms -->")[0]
    rows = [re.findall(r"`(\w+)`", row.split("|")[2]) for row in re.findall(r"^\| \d.*$", table, re.MULTILINE)]
    heights = [[height[name] for name in row] for row in rows]
    assert all(max(above) <= min(below) for above, below in itertools.pairwise(heights))
    folders = {path.parent.name for path in (ROOT / "tlopt").glob("*/__init__.py")}
    assert folders <= {name for row in rows for name in row}


def snippets():
    """Return path -> text of what the page on a first change adds."""
    text = (ROOT / "docs/first-change.md").read_text(encoding="utf-8")
    return dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL))


@pytest.fixture
def added(monkeypatch):
    """Add a file of the page to the package, for the time of a test."""

    def add(path):
        name = path.removesuffix(".py").replace("/", ".")
        module = types.ModuleType(name)
        exec(compile(snippets()[path], path, "exec"), module.__dict__)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return add


def test_the_snippets_of_the_first_change_are_short():
    assert max(len(text.splitlines()) for text in snippets().values()) < 30


def test_the_criterion_of_the_first_change_ranks_channels(added):
    from tlopt.pruning import analysis

    criterion = added("tlopt/pruning/criteria/geometric_median.py")
    for group in analysis.analyze(tiny_models.cnn(3), 32).groups:
        score = criterion.score(group)
        assert score.shape == (group.units,)
        assert (score > 0).all()


def test_the_backend_of_the_first_change_agrees_with_onnxruntime(added, exported, photos, monkeypatch):
    from tlopt import registry
    from tlopt.backends import open_runner

    added("tlopt/backends/reference.py")
    names = registry.names
    monkeypatch.setattr(registry, "names", lambda group: (*names(group), "reference"))
    inputs = np.stack([exported.card.preprocess(file) for file in sorted(photos.rglob("*.png"))[::8]])
    with open_runner(exported, "reference") as one, open_runner(exported) as other:
        # fp32 sums in another order: a few units in the last place of logits around 10.
        np.testing.assert_allclose(one(inputs), other(inputs), atol=1e-4)


def test_the_verb_of_the_first_change_is_a_command(added, exported, monkeypatch, capsys):
    from tlopt import verbs

    added("tlopt/measure/size.py")
    monkeypatch.setitem(verbs.TABLE, "size", eval(snippets()["tlopt/verbs.py"], vars(verbs)))
    with pytest.raises(SystemExit) as caught:
        main(["size", str(exported.path), "--smallest", "10", "--json"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert json.loads(out)["rows"] == [{"file": "model.onnx", "bytes": exported.payload(".onnx").stat().st_size}]
