import shutil
from pathlib import Path

import pytest

import tlopt
from tlopt.errors import (
    ArtifactError,
    ImagesError,
    OutputError,
    OutputExistsError,
    PluginError,
    SettingError,
    TloptError,
)
from tlopt.recipes.recipe import run

FIRST = '[tuned]\nfinetune = "{photos}"\nmodel = "tiny_models:cnn"\n'


@pytest.fixture
def refused(photos, tuned, tmp_path):
    """Return how a recipe is refused, by a dry run and by a run; neither leaves anything."""
    tlopt.trust("tiny_models")

    def told(text: str, expected: type[TloptError]) -> str:
        file = tmp_path / "recipe.toml"
        file.write_text(text.format(out=tmp_path / "runs", photos=photos, tuned=tuned.path))
        before = sorted(tmp_path.rglob("*"))
        messages = set()
        for dry_run in (True, False):
            with pytest.raises(expected) as caught:
                run(file, dry_run=dry_run)
            messages.add(str(caught.value))
        assert sorted(tmp_path.rglob("*")) == before
        (message,) = messages
        return message

    return told


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        ('qat = "tuned"\nteacher = "nowhere"', SettingError, "step a: teacher: there is nothing at nowhere"),
        ('qat = "tuned"\nteacher = "tuned"', SettingError, 'teacher = "{out}/tuned"'),
        ('qat = "tuned"\nteacher = "{photos}"', ArtifactError, "step a: {photos} is not an artifact"),
        (
            'finetune = "{photos}"\nmodel = "pip:efficientnet_lite0"\nunlabelled = "nowhere"',
            SettingError,
            "unlabelled: there is nothing",
        ),
        (
            'finetune = "{photos}"\nmodel = "pip:efficientnet_lite0"\nweights = "nowhere"',
            SettingError,
            "weights: there is nothing",
        ),
        ('prune = "tuned"\nimages = "nowhere"', SettingError, "images: there is nothing at nowhere"),
        (
            'quantize = "tuned"',
            SettingError,
            "quantize needs an artifact of kind onnx, and the step tuned makes",
        ),
        ('build = "tuned"', SettingError, "build needs an artifact of kind onnx"),
        (
            'rank = "tuned"\nmodels = ["pip:efficientnet_lite0"]',
            SettingError,
            "rank needs a folder of images, and the step tuned makes",
        ),
        (
            'prune = "tuned/best"',
            SettingError,
            'no search, so there is no tuned/best.\nWrite prune = "tuned".',
        ),
        ('prune = "{photos}"', ArtifactError, "{photos} is not an artifact"),
        ('finetune = "{tuned}/model.safetensors"\nmodel = "pip:efficientnet_lite0"', ImagesError, "step a: "),
        ('report = ["tuned", "tuned"]', SettingError, "report works on tuned twice"),
        ('compare = ["tuned", "{photos}"]', ArtifactError, "{photos} is not an artifact"),
        (
            'compare = ["tuned", "tuned"]\nhtml = "{out}/a/page.html"',
            SettingError,
            "html lies in the folder of the step",
        ),
        ('compare = ["tuned", "tuned"]\nhtml = "{photos}"', OutputExistsError, "is a folder"),
        ('compare = ["tuned", "tuned"]\nhtml = "{out}/.steps.json"', SettingError, "which tlopt itself writes, too"),
        (
            'compare = ["tuned", "tuned"]\nhtml = "x.html"\n[b]\ncompare = ["tuned", "tuned"]\nhtml = "./x.html"',
            SettingError,
            "x.html, which the step a writes, too",
        ),
        ('compare = ["tuned", "tuned"]\nhtml = "{tuned}/artifact.json/x"', OutputError, "cannot be made"),
    ],
)
def test_what_a_later_step_cannot_use_is_told_before_the_first_step(
    refused, photos, tuned, tmp_path, step, error, message
):
    told = refused(f'out = "{{out}}"\n{FIRST}[a]\n{step}\n', error)
    assert message.format(photos=photos, tuned=tuned.path, out=tmp_path / "runs") in told


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        ('finetune = "{photos}"\nmodel = "tiny_models:cnn"\nfolds = 1', SettingError, "folds must be 0 or at least 2"),
        ('finetune = "tuned"\nfolds = 3', SettingError, "none of them can judge it out of fold"),
        ('finetune = "tuned"\nweights = "{photos}"', SettingError, "An artifact keeps its own weights"),
        ('finetune = "{photos}"\nmodel = "tiny_models:cnn"\neffort = "quick"\nunlabelled = "{photos}"', SettingError,
         "Images without labels take part when all layers train"),
        ('finetune = "{photos}"\nmodel = "tiny_models:cnn"\nmethod = "full"\nunlabelled = "{photos}"', SettingError,
         "nothing can answer for images without labels"),
        ('qat = "tuned"\nimages = "{photos}/red"\nsmoothing = 0.2', SettingError, "smoothing does not go with that"),
        ('import = ""', SettingError, "Give either a file or --model"),
        ('import = "{tuned}/artifact.json"\nmodel = "tiny_models:cnn"', SettingError, "Give either a file or --model"),
        ('import = ""\nmodel = "tiny_models:cnn"\nmean = [1.0, 2.0]', SettingError, "mean needs three values"),
        ('import = ""\nmodel = "tiny_models:cnn"\nlayout = "nhwc"', SettingError, "describe an ONNX file"),
        ('import = ""\nmodel = "tiny_models:cnn"\npreset = "none"', SettingError, "There is no preset 'none'"),
        ('export = "tuned"\ntarget = "sm89"', SettingError, "--target is for engines"),
        ('export = "fp32"', ArtifactError, "an ONNX artifact already"),
        ('quantize = "fp32"\nprecision = "fp16"\nmax_drop = 0.01', SettingError, "max_drop is for int8"),
        ('quantize = "fp32"\nmin_db = 20\nmax_drop = 0.01', SettingError, "Leave one of them out"),
        ('quantize = "fp32"\nprecision = "fp8"', SettingError, "onnxruntime has no fp8 kernels"),
        ('build = "fp32"\nmin_batch = 8\nmax_batch = 4', SettingError, "must satisfy min <= opt <= max"),
        ('build = "fp32"\nflavour = "rtx"\nversion_compatible = true', SettingError, "builds no version-compatible"),
        ('build = "fp32"\ntarget = ["sm1"]', PluginError, "Unknown target 'sm1'"),
        ('optimize = "{photos}"', SettingError, "needs a limit of time, size or memory"),
        ('optimize = "{photos}"\nlatency_ms = 5\nrole = "train"', SettingError, "Name it with --study"),
        ('optimize = "{photos}"\nlatency_ms = 5\nimages = "{photos}"', SettingError, "images is for an artifact"),
        ('optimize = "tuned"\nlatency_ms = 5\nmodels = "timm:resnet18"', SettingError, "keeps its own network"),
        ('optimize = "{photos}"\nlatency_ms = 5\nbackend = "nowhere"', PluginError, "nowhere"),
        ('optimize = "{photos}"\nlatency_ms = 5\ndry_run = true', SettingError, "dry_run only asks"),
        ('optimize = "{photos}"\nlatency_ms = 5\nstatus = "x"', SettingError, "status only asks"),
        ('finetune = "{photos}"\nmodel = "pip:efficientnet_lite9"', PluginError, "has no model 'efficientnet_lite9'"),
        ('optimize = "{photos}"\nlatency_ms = 5\nmodels = "pip:x"', PluginError, "pip has no model 'x'"),
        ('optimize = "{photos}"\nlatency_ms = 5\nmodels = "nowhere"', SettingError, "no artifact at nowhere"),
        ('rank = "{photos}"\nbackend = "nowhere"', PluginError, "nowhere"),
        ('report = "tuned"\nbackend = "onnxruntime:nowhere"', PluginError, "no device 'nowhere'"),
        ('compare = ["tuned", "fp32"]\nbackend = "nowhere"', PluginError, "nowhere"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_told_before_the_first_step(refused, step, error, message):
    told = refused(f'out = "{{out}}"\n{FIRST}[fp32]\nexport = "tuned"\n[a]\n{step}\n', error)
    assert message in told
    assert "step a: " in told


def test_a_search_is_worked_on_by_its_answer(refused):
    search = '[search]\noptimize = "{photos}"\nlatency_ms = 5\n'
    told = refused(f'out = "{{out}}"\n{search}[a]\nexport = "search"\n', SettingError)
    assert 'Write export = "search/best".' in told


def test_a_report_is_nothing_to_work_on(refused):
    told = refused(f'out = "{{out}}"\n{FIRST}[page]\nreport = "tuned"\n[a]\nexport = "page"\n', SettingError)
    assert "the step page makes a report" in told


def test_a_teacher_may_be_made_by_a_step_before(photos, tmp_path):
    tlopt.trust("tiny_models")
    file = tmp_path / "recipe.toml"
    text = f'out = "{{out}}"\n{FIRST}[a]\nqat = "tuned"\nteacher = "{{out}}/tuned"\n'
    file.write_text(text.format(out=tmp_path / "runs", photos=photos))
    assert [done.state for done in run(file, dry_run=True)] == ["to make", "to make"]


def test_results_among_the_images_of_an_artifact_are_refused_and_leave_nothing(photos, tuned, tmp_path):
    tlopt.trust("tiny_models")
    copied = Path(shutil.copytree(photos, tmp_path / "photos"))
    again = tlopt.finetune(copied, tmp_path / "again", model="tiny_models:cnn", epochs=1, cache_gb=0)
    file = tmp_path / "recipe.toml"
    before = sorted(copied.iterdir())
    for out, source in ((copied, again.path), (copied / "runs", again.path)):
        file.write_text(f'out = "{out}"\n[a]\nexport = "{source}"\n')
        with pytest.raises(OutputError, match="lies among the images"):
            run(file)
        assert sorted(copied.iterdir()) == before


def test_what_an_export_makes_on_its_way_takes_the_place_of_nothing(tuned, tmp_path):
    tlopt.trust("tiny_models")
    mine = Path(shutil.copytree(tuned.path, tmp_path / "runs" / "q-fp32"))
    before = (mine / "artifact.json").read_bytes()
    file = tmp_path / "recipe.toml"
    file.write_text(f'out = "{tmp_path}/runs"\n[q]\nexport = "{tuned.path}"\nprecision = "fp16"\n')
    with pytest.raises(OutputExistsError, match="q-fp32 exists, and no run of this recipe made it"):
        run(file)
    with pytest.raises(OutputExistsError, match=r"q-fp32 is in the way, and was not made by export"):
        tlopt.export(tuned, tmp_path / "runs" / "q", precision="fp16", force=True)
    assert (mine / "artifact.json").read_bytes() == before
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["q-fp32"]


def test_two_steps_never_make_the_same_folder(refused):
    twice = '[q]\nexport = "tuned"\nprecision = "int8"\n[q-fp32]\nexport = "tuned"\n'
    told = refused(f'out = "{{out}}"\n{FIRST}{twice}', SettingError)
    assert "the steps q and q-fp32 both make" in told
