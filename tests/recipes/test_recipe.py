import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tlopt
from tlopt.artifact import Artifact
from tlopt.errors import (
    ArtifactError,
    CheckError,
    OutputError,
    OutputExistsError,
    PluginError,
    SettingError,
    StageError,
)
from tlopt.recipes import checking, ledger
from tlopt.recipes.checking import sources_of
from tlopt.recipes.recipe import _key, run
from tlopt.recipes.tables import Recipe
from tlopt.search import optimize

GOOD = """
out = "{out}"

[tuned]
finetune = "{photos}"
model = "tiny_models:cnn"
epochs = 1
cache_gb = 0

[fp32]
export = "tuned"
"""


def write_recipe(folder, photos):
    tlopt.trust("tiny_models")
    file = folder / "recipe.toml"
    file.write_text(GOOD.format(out=folder / "runs", photos=photos))
    return file


@pytest.fixture
def recipe(photos, tmp_path):
    return write_recipe(tmp_path, photos)


@pytest.fixture(scope="module")
def done(photos, tmp_path_factory):
    """A recipe whose steps are all made."""
    file = write_recipe(tmp_path_factory.mktemp("done"), photos)
    assert states(file) == [("tuned", "made"), ("fp32", "made")]
    return file


def states(recipe, **options):
    return [(done.step.name, done.state) for done in run(recipe, **options)]


@pytest.mark.slow
def test_a_recipe_makes_its_steps_and_keeps_what_is_unchanged(recipe, tmp_path):
    assert states(recipe, dry_run=True) == [("tuned", "to make"), ("fp32", "to make")]
    assert states(recipe) == [("tuned", "made"), ("fp32", "made")]
    assert (tmp_path / "runs" / "fp32" / "model.onnx").exists()
    assert states(recipe) == [("tuned", "kept"), ("fp32", "kept")]
    assert states(recipe, dry_run=True, force_from="fp32") == [("tuned", "to keep"), ("fp32", "to make")]
    # A changed setting makes its own step again, and what comes after it only if its source changed.
    recipe.write_text(recipe.read_text() + "opset = 19\n")
    assert states(recipe) == [("tuned", "kept"), ("fp32", "made")]
    (tmp_path / "runs" / "fp32" / "model.onnx").write_bytes(b"damaged")
    assert states(recipe) == [("tuned", "kept"), ("fp32", "made")]


@pytest.mark.slow
def test_a_setting_whose_name_is_pythons_own_is_passed_on(recipe, tmp_path):
    recipe.write_text(recipe.read_text() + 'input = "uint8"\n')
    assert states(recipe) == [("tuned", "made"), ("fp32", "made")]
    assert Artifact.load(tmp_path / "runs" / "fp32").card.preprocess.folded


def test_whatever_a_step_reads_makes_it_anew_when_it_changes(recipe, photos, tmp_path):
    """Photos beside a JSON file, photos of a manifest, and what a setting names."""
    copied = tmp_path / "copied"
    shutil.copytree(photos, copied)
    (copied / "notes.json").write_text("{}")
    files = sorted(file for file in copied.rglob("*.png"))
    table = tmp_path / "table.csv"
    table.write_text("path,label\n" + "".join(f"{file},{file.parent.name}\n" for file in files))
    known = [ledger.identity(path) for path in (copied, table)]
    assert all(known)
    files[0].write_bytes(files[-1].read_bytes() + b"\0")
    assert all(before != ledger.identity(path) for before, path in zip(known, (copied, table), strict=True))
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"one")
    recipe.write_text(recipe.read_text().replace("epochs = 1", f'epochs = 1\nweights = "{weights}"'))
    loaded = Recipe.read(recipe)
    before = _key(loaded, loaded.steps[0])
    assert _key(loaded, loaded.steps[0]) == before
    weights.write_bytes(b"two")
    assert _key(loaded, loaded.steps[0]) != before


def test_what_no_recipe_made_is_not_replaced(recipe, tmp_path):
    place = tmp_path / "runs" / "fp32"
    place.mkdir(parents=True)
    (place / "mine.txt").write_text("kept")
    for dry_run in (True, False):
        with pytest.raises(OutputExistsError, match="no run of this recipe made it"):
            states(recipe, dry_run=dry_run)
    assert not (tmp_path / "runs" / "tuned").exists()
    with pytest.raises(OutputExistsError, match=r"mine\.txt would be lost"):
        states(recipe, force_from="tuned")
    assert (place / "mine.txt").read_text() == "kept"


def test_what_another_recipe_made_is_kept_or_refused_and_never_replaced_unasked(done, photos, tmp_path):
    out = Path(shutil.copytree(done.parent / "runs", tmp_path / "runs"))
    other = tmp_path / "other.toml"
    other.write_text(GOOD.format(out=out, photos=photos))
    assert states(other) == [("tuned", "kept"), ("fp32", "kept")]
    other.write_text(other.read_text().replace("epochs = 1", "epochs = 2"))
    before = (out / "tuned" / "artifact.json").read_bytes()
    for dry_run in (True, False):
        with pytest.raises(OutputExistsError, match="no run of this recipe made it") as caught:
            states(other, dry_run=dry_run)
    assert "--force-from tuned replaces it" in caught.value.hint
    assert (out / "tuned" / "artifact.json").read_bytes() == before
    assert states(other, dry_run=True, force_from="tuned") == [("tuned", "to make"), ("fp32", "to make")]
    same = tmp_path / done.name  # the recipe itself, changed, makes them anew
    same.write_text(other.read_text())
    assert states(same, dry_run=True) == [("tuned", "to make"), ("fp32", "to make")]


class Killed(BaseException):
    """Ends a run where it stands, as a kill does."""


def killed_at(recipe, call, monkeypatch):
    """Run a recipe and end it at a call of the function that writes down what became of a step."""
    calls = iter(range(call))

    def write(*args):
        if next(calls, None) is None:
            raise Killed
        written(*args)

    written = ledger.write
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write", write)
        with pytest.raises(Killed):
            states(recipe)


@pytest.mark.slow
def test_a_recipe_killed_before_a_step_is_written_down_goes_on_and_keeps_it(recipe, tmp_path, monkeypatch):
    killed_at(recipe, 1, monkeypatch)
    assert (tmp_path / "runs" / "tuned").exists()
    assert states(recipe, dry_run=True) == [("tuned", "to keep"), ("fp32", "to make")]
    killed_at(recipe, 2, monkeypatch)
    assert (tmp_path / "runs" / "fp32").exists()
    assert states(recipe) == [("tuned", "kept"), ("fp32", "kept")]
    assert states(recipe) == [("tuned", "kept"), ("fp32", "kept")]


@pytest.mark.slow
def test_what_a_killed_run_left_is_made_again_where_the_recipe_has_changed(recipe, tmp_path, monkeypatch):
    killed_at(recipe, 3, monkeypatch)
    recipe.write_text(recipe.read_text() + "opset = 19\n")
    assert states(recipe) == [("tuned", "kept"), ("fp32", "made")]
    # Begun again and killed before the new one stood: the old one is not taken for it.
    recipe.write_text(recipe.read_text().replace("opset = 19", "opset = 20"))
    with monkeypatch.context() as patch:
        patch.setattr("tlopt.recipes.recipe._make", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            states(recipe)
    assert states(recipe) == [("tuned", "kept"), ("fp32", "made")]
    assert names(tmp_path / "runs") == [".steps.json", "fp32", "tuned"]


@pytest.mark.slow
def test_where_the_record_is_gone_the_lineage_says_what_to_keep(done):
    (done.parent / "runs" / ".steps.json").unlink()
    assert states(done) == [("tuned", "kept"), ("fp32", "kept")]


@pytest.mark.slow
def test_where_the_record_is_gone_no_result_is_replaced_whose_lineage_cannot_tell(recipe, photos, tmp_path):
    """Of what a setting names, only the name is in the lineage, not what was in it."""
    recipe.write_text(recipe.read_text() + f'images = "{photos}"\n')
    assert states(recipe) == [("tuned", "made"), ("fp32", "made")]
    (tmp_path / "runs" / ".steps.json").unlink()
    before = (tmp_path / "runs" / "fp32" / "artifact.json").read_bytes()
    for dry_run in (True, False):
        with pytest.raises(OutputExistsError, match="no run of this recipe made it") as caught:
            states(recipe, dry_run=dry_run)
    assert "--force-from fp32 replaces it" in caught.value.hint
    assert (tmp_path / "runs" / "fp32" / "artifact.json").read_bytes() == before
    assert states(recipe, dry_run=True, force_from="fp32") == [("tuned", "to keep"), ("fp32", "to make")]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"fp32": 1}', '{"fp32": {"key": 1, "result": ""}}', '{"fp32": {}}', "\0"]
)
def test_a_damaged_record_is_one_error_and_nothing_is_made_again(done, text, tmp_path):
    out = tmp_path / "runs"
    shutil.copytree(done.parent / "runs", out)
    file = tmp_path / "recipe.toml"
    file.write_text(done.read_text().replace(str(done.parent / "runs"), str(out)))
    (out / ".steps.json").write_text(text)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for options in ({"dry_run": True}, {}, {"force_from": "fp32"}):
        with pytest.raises(ArtifactError, match=r"steps\.json, .* is damaged: .*\.") as caught:
            states(file, **options)
        assert "delete it" in caught.value.hint
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert states(file, dry_run=True, force_from="tuned") == [("tuned", "to make"), ("fp32", "to make")]
    (out / ".steps.json").unlink()
    assert states(file, dry_run=True) == [("tuned", "to keep"), ("fp32", "to keep")]


def test_a_byte_order_mark_in_front_of_a_recipe_is_passed_over(recipe):
    recipe.write_bytes(b"\xef\xbb\xbf" + recipe.read_bytes())
    assert states(recipe, dry_run=True) == [("tuned", "to make"), ("fp32", "to make")]


def test_a_search_is_kept_with_its_answer_alone_and_forced_to_begin_anew(photos, tuned, tmp_path, monkeypatch):
    calls = []

    @functools.wraps(optimize.optimize)
    def search(source, out, *, force=False, **_):
        calls.append(force)
        shutil.copytree(tuned.path, out / "best", dirs_exist_ok=True)
        (out / "report.json").write_text("{}")
        return SimpleNamespace(to_report=lambda: SimpleNamespace(check=lambda: None))

    monkeypatch.setattr(optimize, "optimize", search)
    monkeypatch.setattr(checking, "check", lambda *_, **__: None)
    file = tmp_path / "recipe.toml"
    file.write_text(f'out = "{tmp_path / "runs"}"\n[s]\noptimize = "{photos}"\nlatency_ms = 5\n')
    assert states(file) == [("s", "made")]
    assert states(file) == [("s", "kept")]
    shutil.rmtree(tmp_path / "runs" / "s" / "best")
    assert states(file) == [("s", "made")]
    assert states(file, force_from="s") == [("s", "made")]
    assert calls == [False, False, True]


@pytest.mark.slow
def test_the_second_run_of_a_recipe_is_refused(recipe, tmp_path):
    first = run(recipe)
    assert next(first).state == "made"
    with pytest.raises(OutputExistsError, match="Another run"):
        states(recipe)
    assert [done.state for done in first] == ["made"]
    assert names(tmp_path / "runs") == [".steps.json", "fp32", "tuned"]


def test_a_source_that_only_a_later_step_is_called_like_is_a_path(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").symlink_to(photos)
    (tmp_path / "recipe.toml").write_text('out = "."\n[tuned]\nfinetune = "pictures"\n[pictures]\nexport = "tuned"\n')
    for options in ({}, {"force_from": "tuned"}):
        with pytest.raises(OutputExistsError, match="pictures"):
            run(tmp_path / "recipe.toml", **options)
    (tmp_path / "recipe.toml").write_text('out = "runs"\n[pictures]\nfinetune = "pictures"\n')
    recipe = Recipe.read(tmp_path / "recipe.toml")
    assert sources_of(recipe, recipe.steps[0]) == [Path("pictures")]


def test_a_step_never_takes_the_place_of_what_the_recipe_reads(recipe, photos, tmp_path):
    copied = tmp_path / "runs" / "fp32"
    shutil.copytree(photos, copied)
    recipe.write_text(recipe.read_text().replace(str(photos), str(copied)))
    for force_from in (None, "tuned"):
        with pytest.raises(OutputExistsError):
            states(recipe, force_from=force_from)
    assert len(list(copied.rglob("*.png"))) == 48


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a folder for its results"),
        ('out = ""', "needs a folder for its results"),
        ('out = "a\\u0000b"', "needs a folder for its results"),
        ('out = "x"\n[a]\nfinetune = ""', "step a: finetune needs to know what it works on"),
        ('out = "x"\n[a]\nfinetune = []', "step a: finetune needs to know what it works on"),
        ('out = "x"\n[a]\noptimize = ""\nlatency_ms = 5', "step a: optimize needs to know what it works on"),
        ("out = 3", "needs a folder for its results"),
        ('out = "x"', "has no step"),
        ("out = ", "is not valid TOML"),
        ('out = "x"\nfoo = 1', "unknown key 'foo'"),
        ('out = "x"\n[a]\nfinetun = "photos"', "step a: the step has no verb"),
        ('out = "x"\n[a]\nfinetune = "p"\nexport = "q"', "step a: the step has 2 verbs"),
        ('out = "x"\n[a]\nfinetune = "nowhere"', "neither an earlier step nor a path called 'nowhere'"),
        ('out = "x"\n[a]\nfinetune = "{photos}"\nepoch = 3', "step a: finetune has no setting 'epoch'"),
        ('out = "x"\n[a]\nfinetune = "{photos}"\nepochs = 0', "step a: epochs must be between 1 and 100000"),
        ('out = "x"\n[a]\nfinetune = ["{photos}", "{photos}"]', "works on one source"),
        ('out = "x"\n[a]\ncompare = ["{photos}"]', "compare takes the reference and the candidate"),
        ('out = "x"\n[[a]]\nfinetune = "{photos}"', "a is a list of tables"),
        ('out = "x"\n[a]\nbench = "{photos}"', "step a: recipes have no bench"),
        (
            'out = "x"\n[a]\nexport = "b"\n[b]\nfinetune = "{photos}"',
            r"called 'b'\.\nMove the step b before",
        ),
        ('out = "x"\n[a]\nexport = "a"', r"called 'a'\.\nPaths are relative to"),
        ('out = "x"\n[a]\nfinetune = "{photos}"\nimage-size = 32\nimage_size = 64', "image-size is given twice"),
        ('out = "x"\n[a]\nfinetune = "{photos}"\nmodel = "lite0"', "step a: A model is named source:name, got 'lite0'"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_before_the_first_step(text, message, photos, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(text.replace("{photos}", str(photos)))
    with pytest.raises((PluginError, SettingError), match=message):
        run(file)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


def test_a_recipe_among_the_images_is_refused_and_leaves_nothing_there(photos, tmp_path):
    copied = Path(shutil.copytree(photos, tmp_path / "photos"))
    file = tmp_path / "recipe.toml"
    file.write_text(GOOD.format(out=copied / "runs", photos=copied))
    with pytest.raises(OutputError, match="lies among the images"):
        run(file)
    assert names(copied) == names(photos)


def test_a_wrong_verb_and_a_wrong_setting_get_their_close_match(photos, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('out = "x"\n[a]\nfinetun = "photos"')
    with pytest.raises(SettingError) as caught:
        Recipe.read(file)
    assert caught.value.hint == "Did you mean 'finetune'?"
    file.write_text(f'out = "x"\n[a]\nfinetune = "{photos}"\nepoch = 3')
    with pytest.raises(SettingError) as caught:
        Recipe.read(file)
    assert caught.value.hint == "Did you mean 'epochs'?"


def test_an_unknown_step_cannot_be_forced(recipe):
    with pytest.raises(SettingError, match="no step 'fp23'") as caught:
        run(recipe, force_from="fp23")
    assert caught.value.hint == "Did you mean 'fp32'?"


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(SettingError, match="cannot be read: No such file"):
        run(tmp_path / "none.toml")


@pytest.mark.slow
def test_a_report_on_a_named_backend_that_cannot_run_is_no_finished_step(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(
        f'out = "runs"\n[report]\nreport = ["{exported.path}"]\nbackend = ["onnxruntime", "openvino:npu"]\n'
        "batch = [1]\nseconds = 0.01\n"
    )
    for _ in range(2):  # the second run tries again
        with pytest.raises(StageError, match=r"could not run on openvino:npu"):
            list(run(tmp_path / "recipe.toml"))
        assert not (tmp_path / "runs" / "report").exists()


@pytest.mark.slow
def test_an_older_report_stands_if_a_new_one_lacks_something(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step = f'out = "runs"\n[report]\nreport = ["{exported.path}"]\nseconds = 0.01\nbatch = [1]\nbackend = '
    (tmp_path / "recipe.toml").write_text(f'{step}["onnxruntime"]\n')
    list(run("recipe.toml"))
    before = {file.name: file.read_bytes() for file in (tmp_path / "runs" / "report").iterdir()}
    assert sorted(before) == ["report.html", "report.json"]
    (tmp_path / "recipe.toml").write_text(f'{step}["onnxruntime", "openvino:npu"]\n')
    with pytest.raises(StageError, match=r"could not run on openvino:npu"):
        list(run("recipe.toml"))
    assert {file.name: file.read_bytes() for file in (tmp_path / "runs" / "report").iterdir()} == before


NAMES = st.text(st.characters(categories=("L", "N"), include_characters="-_ "), min_size=1, max_size=12).filter(
    lambda name: name != "out" and name.strip() == name
)
EXPORTS = st.fixed_dictionaries(
    {}, optional={"opset": st.integers(18, 20), "precision": st.sampled_from(["fp32", "fp16"])}
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=1, max_size=5, unique=True), given_=st.lists(EXPORTS, min_size=5, max_size=5))
def test_a_recipe_is_read_as_it_is_written(names, given_, photos, tmp_path):
    def quoted(name):
        return json.dumps(name, ensure_ascii=False)

    first, *later = names
    lines = ['out = "x"', f"[{quoted(first)}]", f'finetune = "{photos}"']
    for name, source, settings_ in zip(later, names, given_, strict=False):
        lines += [f"[{quoted(name)}]", f"export = {quoted(source)}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings_.items()]
    file = tmp_path / "recipe.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    recipe = Recipe.read(file)
    assert [step.name for step in recipe.steps] == names
    assert [step.verb for step in recipe.steps] == ["finetune", *["export"] * len(later)]
    assert [step.sources for step in recipe.steps] == [(str(photos),), *((name,) for name in names[:-1])]
    assert [dict(step.settings) for step in recipe.steps[1:]] == given_[: len(later)]


SEARCH = """
out = "{out}"

[search]
optimize = "{photos}"
latency_ms = {limit}
models = ["tiny_models:cnn"]

[again]
quantize = "search/best"
"""


@pytest.fixture
def searched(exported, monkeypatch):
    """Searches that find the same artifact at once; what they were asked for, in the order of their runs."""
    from tlopt.publishing import draft, write_whole
    from tlopt.reports import Report
    from tlopt.search import searching
    from tlopt.search.outcome import Study, copy_artifact

    runs = []

    def search(asked, whole, parts, out, *, quick, force, **_):
        runs.append((asked.budget.latency_ms, force))
        if (out / "optimize.json").exists() and not force:
            raise OutputExistsError("It is another search.")
        with draft(out, force=force, makes="search") as made:
            write_whole(made / "optimize.json", '{"tlopt": "0", "identity": {}, "study": "study.journal"}')
        breaches = () if asked.budget.latency_ms > 1 else ("Nothing keeps to the budget.",)
        report = Report(title="", rows=(), conditions={}, breaches=breaches)
        write_whole(out / "report.json", report.to_json())
        copy_artifact(exported, out / "best")
        return Study(path=out, report=report)

    monkeypatch.setattr(searching, "search", search)
    monkeypatch.setattr("tlopt.search.study.folder.read_note", lambda _: None)
    monkeypatch.setattr("tlopt.search.study.folder.check", lambda *_, **__: None)
    return runs


@pytest.mark.slow
def test_a_search_is_a_step_and_a_later_step_may_take_its_answer(searched, photos, tmp_path):
    tlopt.trust("tiny_models")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(SEARCH.format(out=tmp_path / "runs", photos=photos, limit=5.0))
    assert states(recipe) == [("search", "made"), ("again", "made")]
    assert states(recipe) == [("search", "kept"), ("again", "kept")]
    assert searched == [(5.0, False)]
    recipe.write_text(SEARCH.format(out=tmp_path / "runs", photos=photos, limit=6.0))
    assert states(recipe) == [("search", "made"), ("again", "kept")]  # it found the same
    assert searched[1:] == [(6.0, False), (6.0, True)]


def test_a_search_that_finds_nothing_ends_the_recipe(searched, photos, tmp_path):
    tlopt.trust("tiny_models")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(SEARCH.format(out=tmp_path / "runs", photos=photos, limit=0.5))
    with pytest.raises(CheckError, match="Nothing keeps to the budget"):
        states(recipe)
