import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from interruptions import interrupt_after
from PIL import Image
from safetensors.torch import load_file, save_file

from tlopt import progress, sources
from tlopt.artifact import Artifact
from tlopt.backends import open_runner
from tlopt.errors import ArtifactError, ImagesError, OutputExistsError, PluginError, SettingError
from tlopt.images import batches, reopen
from tlopt.networks import sparsity
from tlopt.settings import check, parameters
from tlopt.show import show
from tlopt.stages.finetune import finetune
from tlopt.stages.prune import prune
from tlopt.training.hyperparameters import EFFORTS, OF_NO_HEAD

SIZE = 32
MODEL = "timm:test_efficientnet"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    """Three classes of 20 noisy images of one color each."""
    root = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    for name, color in {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 60, 40)}.items():
        (root / name).mkdir()
        for i in range(20):
            pixels = np.clip(np.array(color) + chance.normal(0, 60, (44, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of a tiny run, with "pretrained" weights that are random but fixed."""
    root = tmp_path_factory.mktemp("settings")
    torch.manual_seed(0)
    save_file(sources.build(MODEL, classes=7, size=SIZE).state_dict(), root / "weights.safetensors")
    return {
        "model": MODEL, "weights": root / "weights.safetensors", "image_size": SIZE, "epochs": 1, "batch": 8,
        "cache_dir": root / "cache", "precision": "fp32",  # or weights would depend on the processor
    }  # fmt: skip


def fit_alone(settings):
    """Leave out what has no effect where the classifier alone is fitted."""
    return {name: value for name, value in settings.items() if name not in OF_NO_HEAD}


@pytest.fixture(scope="module")
def tuned(colors, settings, tmp_path_factory):
    return finetune(colors, tmp_path_factory.mktemp("artifacts") / "tuned", **settings)


def payload(artifact):
    return artifact.payload(".safetensors").read_bytes()


def test_finetune_makes_an_artifact_that_knows_the_classes(tuned):
    parts = reopen(tuned.card.images)
    batch = next(batches(parts["test"], tuned.card.preprocess, batch=100))
    with open_runner(tuned) as run:
        assert (run(batch.inputs).argmax(1) == batch.labels).mean() > 0.8
    assert tuned.card.classes == ("blue", "green", "red")
    assert tuned.card.lineage[0].stage == "finetune"


def test_finetune_leaves_its_records(tuned):
    assert set(tuned.card.files) == {
        "model.safetensors", "metrics.jsonl", "learning_curves.svg", "confusion_matrix.svg",
    }  # fmt: skip
    first, last = (json.loads(line) for line in (tuned.path / "metrics.jsonl").read_text().splitlines())
    assert first["epoch"] == 1
    assert set(last["validation"]["per_class"]) == {"blue", "green", "red"}
    assert "seconds" not in first
    assert last["validation"] == tuned.card.torch.metrics["validation"]
    assert not list(tuned.path.parent.glob(".*"))


def test_the_default_is_never_worse_than_the_probe_on_validation(tuned):
    metrics = tuned.card.torch.metrics
    assert metrics["validation"]["accuracy"] >= metrics["probe"]["accuracy"]


@pytest.mark.parametrize("effort", EFFORTS)
def test_the_page_says_what_each_effort_sets(effort):
    page = Path(__file__).parents[2] / "docs" / "finetune.md"
    row = next(line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{effort}` |"))
    options = " ".join(f"--{name.replace('_', '-')} {value:g}" if isinstance(value, float) else f"--{name} {value}"
                       for name, value in EFFORTS[effort].items())  # fmt: skip
    assert row.split("|")[2].strip().strip("`") == (options or "nothing")


@pytest.mark.slow
def test_folds_train_on_all_images_and_tell_what_is_out_of_fold(tuned, colors, settings, tmp_path):
    made = finetune(colors, tmp_path / "out", folds=2, **settings)
    metrics = made.card.torch.metrics
    parts, before = reopen(made.card.images), reopen(tuned.card.images)
    assert metrics["folds"] == {"folds": 2, "images": len(parts["train"])}
    assert metrics["validation"]["images"] == len(before["train"]) + len(before["val"])
    assert parts["test"].files == before["test"].files
    assert "out of fold" in " ".join(show(made.path).notes)
    assert "images for validation" in " ".join(show(tuned.path).notes)
    assert "learning_curves.svg" in made.card.files
    with pytest.raises(ImagesError, match="none is left for validation"):
        finetune(made, tmp_path / "again")
    assert prune(made, tmp_path / "pruned", ratio=0.2, epochs=0).card.torch.pruned is not None


def test_folds_are_for_images_that_nobody_trained_on(tuned, colors, tmp_path):
    with pytest.raises(SettingError, match="none of them can judge it out of fold"):
        finetune(tuned, tmp_path / "out", folds=5)
    with pytest.raises(SettingError, match="at least 2"):
        finetune(colors, tmp_path / "out", folds=1)


@pytest.mark.slow
def test_effort_sets_what_is_not_given(colors, settings, tmp_path):
    quick = finetune(colors, tmp_path / "quick", effort="quick", **fit_alone(settings))
    assert quick.card.lineage[0].settings["method"] == "head"
    assert not quick.card.lineage[0].settings.keys() & set(OF_NO_HEAD)  # no epoch was trained
    assert "epochs" in settings
    best = finetune(colors, tmp_path / "best", effort="best", **settings)
    used = best.card.lineage[0].settings
    assert (used["effort"], used["epochs"], used["soup"]) == ("best", settings["epochs"], EFFORTS["best"]["soup"])
    trainings = {record["training"] for record in best.card.torch.metrics["epochs"]}
    assert trainings == set(range(1, used["soup"] + 1))
    assert "effort=best" in " ".join(show(best.path).notes)
    assert "soup=" in " ".join(show(best.path).notes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "head", "epochs": 20}, "epochs has no effect with method head"),
        (
            {"effort": "quick", "lr": 0.1, "policy": "augmix"},
            "lr and policy have no effect with method head, which",
        ),
        ({"method": "head", "effort": "best"}, "effort has no effect with method head"),
        ({"method": "head", "teacher": "teacher"}, "teacher has no effect with method head"),
    ],
)
def test_a_setting_of_a_training_that_is_left_out_is_refused(colors, tmp_path, given, message):
    with pytest.raises(SettingError, match=message):
        finetune(colors, tmp_path / "out", **given)


@pytest.mark.parametrize("effort", EFFORTS)
def test_every_effort_names_settings_of_finetune(effort):
    chosen = check(finetune.body, {"effort": effort})
    assert {name: chosen[name] for name in EFFORTS[effort]} == EFFORTS[effort]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_artifact(tuned, colors, settings, tmp_path):
    assert finetune(colors, tmp_path / "again", **settings).digest == tuned.digest


@pytest.mark.slow
@pytest.mark.parametrize("method", ["head", "full", "gradual"])
def test_every_method_learns(colors, settings, tmp_path, method):
    more = {**settings, "epochs": 4, "lr": 0.01}
    made = finetune(colors, tmp_path / "out", method=method, **(fit_alone(more) if method == "head" else more))
    assert made.card.torch.metrics["validation"]["accuracy"] > 0.6
    assert ("learning_curves.svg" in made.card.files) == (method != "head")


@pytest.mark.parametrize(
    ("model", "method"),
    [("versioned", "lp-ft"), ("versioned", "full"), ("viewing", "full"), ("auxiliary", "lp-ft")],
)
def test_an_odd_network_trains_and_opens_again(colors, tmp_path, model, method):
    made = finetune(
        colors, tmp_path / "out", model=f"odd_nets:{model}", image_size=SIZE, epochs=1, batch=8, method=method,
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    assert sources.open_model(made)


@pytest.mark.slow
def test_a_torch_artifact_goes_on_training(tuned, settings, tmp_path):
    again = finetune(tuned, tmp_path / "again", epochs=1, batch=8, cache_dir=settings["cache_dir"])
    assert [step.stage for step in again.card.lineage] == ["finetune", "finetune"]
    assert again.card.images == tuned.card.images
    assert again.card.preprocess == tuned.card.preprocess
    before, after = (a.card.torch.metrics["validation"]["accuracy"] for a in (tuned, again))
    assert after >= before


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lp-ft", "full", "head"])
def test_a_sparse_network_keeps_its_zeros(tuned, settings, tmp_path, method):
    options = {"cache_dir": settings["cache_dir"], "batch": 8, "epochs": 1}
    sparse = prune(tuned, tmp_path / "sparse", ratio=0, sparsity="2:4", samples=16, **options)
    more = {"lr": 0.01, **options}
    again = finetune(sparse, tmp_path / "again", method=method, **(fit_alone(more) if method == "head" else more))
    before, after = (sparsity.layers(sources.open_model(artifact)) for artifact in (sparse, again))
    assert len(after) > 5
    assert all(sparsity.follows(layer.weight) for layer in after.values())
    moved = any(not torch.equal(after[name].weight, before[name].weight) for name in after)
    assert moved or method != "full"
    assert again.card.torch.macs == sparse.card.torch.macs
    assert again.card.torch.pruned == sparse.card.torch.pruned


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["network", "features"])
def test_an_artifact_teaches(tuned, colors, settings, tmp_path, kind):
    weight = 1.0 if kind == "features" else 0.0
    student = finetune(colors, tmp_path / "student", teacher=tuned.path, teacher_features=weight, **settings)
    assert student.card.torch.metrics["validation"]["accuracy"] > 0.6
    assert student.card.lineage[-1].settings["teacher"] == tuned.path or str(tuned.path)


def test_a_teacher_of_other_classes_is_refused(tuned, settings, tmp_path, colors):
    others = tmp_path / "others"
    others.mkdir()
    for name in ("blue", "red"):
        (others / name).symlink_to(colors / name)
    with pytest.raises(ArtifactError, match=r"knows 3 classes.*images have 2"):
        finetune(others, tmp_path / "out", teacher=tuned.path, **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_dropout_and_drop_path_reach_the_network(colors, settings, tmp_path):
    made = finetune(colors, tmp_path / "out", dropout=0.3, drop_path=0.1, **settings)
    assert sources.open_model(made)


@pytest.mark.slow
def test_a_resumed_run_makes_the_same_artifact(colors, settings, tmp_path):
    settings = {**settings, "epochs": 3}
    expected = finetune(colors, tmp_path / "whole", **settings)
    token = progress.display.set(interrupt_after(8))
    try:
        with pytest.raises(KeyboardInterrupt):
            finetune(colors, tmp_path / "out", **settings)
    finally:
        progress.display.reset(token)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.checkpoint").is_dir()
    resumed = finetune(colors, tmp_path / "out", resume=True, **settings)
    assert payload(resumed) == payload(expected)
    assert not (tmp_path / ".out.checkpoint").exists()


def test_an_unreadable_image_is_left_out_and_reported(colors, settings, tmp_path):
    copy = tmp_path / "copy"
    for name in ("blue", "green", "red"):
        (copy / name).mkdir(parents=True)
        for file in (colors / name).iterdir():
            (copy / name / file.name).write_bytes(file.read_bytes())
    (copy / "train").mkdir()
    for name in ("blue", "green", "red"):
        (copy / name).rename(copy / "train" / name)
    (copy / "train" / "blue" / "bad.png").write_bytes(b"no image")
    made = finetune(copy, tmp_path / "out", method="head", **fit_alone(settings))
    assert [os.path.basename(name) for name in made.card.torch.unreadable] == ["bad.png"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "timm:no_such_net"}, PluginError, "no model 'no_such_net'"),
        ({"optimizer": "no_such"}, PluginError, "Unknown optimizer: 'no_such'"),
        ({"epochs": 0}, SettingError, "epochs must be between 1 and 100000"),
        ({"val": 0.0}, ImagesError, "None of the 60 images is left for validation"),
        ({"loss": "focul"}, SettingError, "loss cannot be 'focul'"),
    ],
)
def test_a_wrong_setting_leaves_nothing_behind(colors, settings, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        finetune(colors, tmp_path / "out", **{**settings, **changes})
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_not_replaced(colors, settings, tuned):
    with pytest.raises(OutputExistsError):
        finetune(colors, tuned.path, **settings)


def test_an_artifact_keeps_its_own_weights_and_size(tuned, tmp_path):
    with pytest.raises(SettingError, match=r"takes images of 32 pixels, and image_size is 64\."):
        finetune(tuned, tmp_path / "out", image_size=64)
    for own in ({"weights": tuned.path}, {"dropout": 0.1}, {"drop_path": 0.1}):
        with pytest.raises(SettingError, match="An artifact keeps its own weights"):
            finetune(tuned, tmp_path / "out", **own)


def test_every_setting_has_help_and_a_default():
    for parameter in parameters(finetune):
        assert parameter.setting.help.endswith("."), parameter.name
        assert not parameter.required, parameter.name


@pytest.mark.slow
def test_two_processes_of_torchrun_make_the_artifact_of_one(colors, settings, tmp_path):
    options = {**settings, "epochs": 4, "cache_dir": tmp_path / "cache"}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tlopt"]
    pair = [str(Path(__file__).parents[1] / "two_processes.py")]

    def command(launcher, out, *more):
        return [sys.executable, *launcher, "finetune", str(colors), "--out", str(tmp_path / out), *words, *more]

    one = finetune(colors, tmp_path / "one", **options)
    subprocess.run(command(torchrun, "two"), check=True, timeout=600, env=environment, capture_output=True)
    two = Artifact.load(tmp_path / "two")
    assert [step.stage for step in two.card.lineage] == ["finetune"]
    # Each half of a batch is summed up on its own; what the probe and the selection do is exactly the same.
    metrics = [artifact.card.torch.metrics for artifact in (one, two)]
    assert metrics[0]["probe"] == metrics[1]["probe"]
    assert metrics[0]["fine_tuned_share"] == metrics[1]["fine_tuned_share"]
    first, second = (load_file(artifact.payload(".safetensors")) for artifact in (one, two))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)

    launcher = subprocess.Popen(
        command(pair, "three"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoint = tmp_path / ".three.checkpoint" / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert launcher.poll() is None
        time.sleep(0.01)
    # The launcher first, or it would report the end of its workers.
    workers = [int(number) for file in Path(f"/proc/{launcher.pid}/task").glob("*/children") for number in
               file.read_text().split()]  # fmt: skip
    for process in (launcher.pid, *workers):
        os.kill(process, signal.SIGKILL)
    launcher.wait()
    assert len(workers) == 2
    assert not (tmp_path / "three").exists()
    subprocess.run(command(pair, "three", "--resume"), check=True, timeout=600, env=environment, capture_output=True)
    assert payload(Artifact.load(tmp_path / "three")) == payload(two)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "one", "three", "two"]


def test_a_stage_without_a_source_says_what_it_needs(tmp_path):
    with pytest.raises(SettingError, match="finetune needs a source: images or torch"):
        finetune(None, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
