import copy
import dataclasses
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tlopt import progress
from tlopt.errors import ImagesError, SettingError, StageError
from tlopt.images.opening import open_pixels
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.inputs import of_one_size, predict
from tlopt.training.loop import Run, train
from tlopt.training.outcome.history import History
from tlopt.training.resumption.checkpoint import Checkpoint
from tlopt.training.teacher import Teacher

# Not the precision that is fastest here: processors differ in that, and so would the weights.
SETTINGS = Hyperparameters(epochs=3, batch=8, lr=0.02, backbone_lr=0.5, frozen_norm=False, precision="fp32")
CPU = torch.device("cpu")


def trained(net, parts, settings=SETTINGS, **more):
    net = copy.deepcopy(net)
    history = train(net, *parts, settings, **more)
    return net, history


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@contextmanager
def interrupted_at(step):
    """Raise KeyboardInterrupt when the progress bar reaches a step."""

    class Bar:
        def __init__(self):
            self.steps = 0

        def advance(self, steps=1, note=""):  # noqa: ARG002 - part of the protocol
            self.steps += steps
            if self.steps >= step and steps:
                raise KeyboardInterrupt

    @contextmanager
    def display(label, total):
        yield Bar()

    token = progress.display.set(display)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        progress.display.reset(token)


def test_training_learns_the_colors(net, parts):
    net, history = trained(net, parts)
    logits, labels = predict(net, parts[1], device=CPU)
    assert (logits.argmax(1) == labels).mean() > 0.9
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    assert [record["epoch"] for record in history.epochs] == [1, 2, 3]


def test_the_same_seed_gives_the_same_weights(net, parts):
    assert same(trained(net, parts)[0], trained(net, parts)[0])
    assert not same(trained(net, parts)[0], trained(net, parts, dataclasses.replace(SETTINGS, seed=1))[0])


def test_images_decoded_on_the_way_give_the_same_weights(net, parts, photos, tmp_path):
    folders = [pixels.folder for pixels in parts]
    (photos / folders[0].files[3]).write_bytes(b"no image")
    filled, fresh = (
        [open_pixels(folder, parts[0].preprocess, cache=tmp_path / name) for folder in folders]
        for name in ("filled", "fresh")
    )
    for pixels in filled:
        pixels.filled()
    assert same(trained(net, filled)[0], trained(net, fresh)[0])
    assert list(fresh[0].unreadable.reasons) == [folders[0].files[3]]
    assert len(list((tmp_path / "fresh" / "pixels").glob("*.json"))) == 2


def test_images_deleted_while_training_are_left_out_until_they_are_too_many(net, parts, photos):
    folders = [pixels.folder for pixels in parts]
    fresh = [open_pixels(folder, parts[0].preprocess, cache_gb=0) for folder in folders]
    fresh[0].at(0)  # decoded before, and so not missed
    for name in folders[0].files[:3]:
        (photos / name).unlink()
    trained(net, fresh)
    assert sorted(fresh[0].unreadable.reasons) == sorted(folders[0].files[1:3])
    fresh = [open_pixels(folder, parts[0].preprocess, cache_gb=0) for folder in folders]
    for name in folders[0].files[3:8]:
        (photos / name).unlink()
    with pytest.raises(ImagesError, match=r"of the 36 images cannot be read.*there is no such file"):
        trained(net, fresh)


def test_the_callers_random_numbers_are_left_alone(net, parts):
    torch.manual_seed(5)
    trained(net, parts)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9, "l2_sp": 0.1, "mixup": 0.2, "cutmix": 1.0, "policy": "randaugment", "erasing": 0.5},
        {"optimizer": "sgd", "accumulate": 2, "moves": "gradual", "frozen_norm": True},
        {"optimizer": "lamb"},
    ],
)
@pytest.mark.parametrize("step", [1, 2, 7, 11])
def test_a_resumed_run_ends_with_the_same_weights(net, parts, tmp_path, changes, step):
    settings = dataclasses.replace(SETTINGS, **changes)
    expected, history = trained(net, parts, settings)
    with interrupted_at(step):
        trained(net, parts, settings, checkpoints=Checkpoint(folder=tmp_path, every_s=0))
    resumed, again = trained(net, parts, settings, checkpoints=Checkpoint(folder=tmp_path, resume=True))
    assert same(resumed, expected)
    untimed = [{k: v for k, v in r.items() if k not in ("seconds", "images_per_s")} for r in again.epochs]
    assert untimed == [{k: v for k, v in r.items() if k not in ("seconds", "images_per_s")} for r in history.epochs]


KILLED = """
import itertools, os, random, signal, sys, threading
from pathlib import Path
import torch
import torch._dynamo  # the first step of an optimizer imports it, which takes a second in each child
from torch.optim.optimizer import register_optimizer_step_post_hook
from safetensors.torch import save_file
from tlopt.images import scan
from tlopt.images.opening import open_pixels
from tlopt.training.resumption.checkpoint import Checkpoint
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.loop import Run, train
from tlopt.preprocess import Preprocess

sys.path.insert(0, sys.argv[1])
from tiny_nets import TinyNet

def run(checkpoints, target):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = TinyNet()
    folders = scan(sys.argv[2]).split(val=0.25, test=0.0, seed=0)
    pixels = [open_pixels(folders[part], Preprocess(size=32), cache_gb=0).filled() for part in ("train", "val")]
    settings = Hyperparameters(epochs=12, batch=8, lr=0.02, frozen_norm=False, ema=0.9, precision="fp32")
    train(net, *pixels, settings, checkpoints=checkpoints)
    save_file(net.state_dict(), target)

def doomed(steps, delay_s):
    # Dies a moment after one of its steps began: in it, while a checkpoint is written, or in one of the next.
    step, made = Run.step, itertools.count(1)
    def counted(self, *given):
        if next(made) == steps:
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return step(self, *given)
    Run.step = counted

def forked(checkpoints, target, *doom):
    # The parent computes nothing, so that no thread of torch is lost in the fork.
    child = os.fork()
    if child == 0:
        if doom:
            doomed(*doom)
        run(checkpoints, target)
        os._exit(0)
    return child

out = Path(sys.argv[3])
os.waitpid(forked(None, out / "whole"), 0)
kills, chance = 0, random.Random(0)
for _ in range(10):
    doom = chance.choice((1, 2)), chance.uniform(0, 0.005)
    child = forked(Checkpoint(folder=out / "state", every_s=0, resume=True), out / "resumed", *doom)
    kills += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
os.waitpid(forked(Checkpoint(folder=out / "state", every_s=0, resume=True), out / "resumed"), 0)
print(kills)
"""


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_with_the_same_weights(photos, tmp_path):
    script = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(photos), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=600)
    assert int(done.stdout) == 10
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "resumed").read_bytes()


def test_a_checkpoint_of_other_settings_is_refused(net, parts, tmp_path):
    trained(net, parts, checkpoints=Checkpoint(folder=tmp_path))
    with pytest.raises(SettingError, match="other settings: lr"):
        trained(net, parts, dataclasses.replace(SETTINGS, lr=0.5), checkpoints=Checkpoint(folder=tmp_path, resume=True))


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(net, parts, tmp_path):
    checkpoints = Checkpoint(folder=tmp_path, every_s=0)

    def spoil(record):
        with torch.no_grad():
            broken.fc.weight.fill_(float("nan"))

    broken = copy.deepcopy(net)
    with pytest.raises(StageError, match=r"loss became nan in epoch 2, step 1.*last good checkpoint is"):
        train(broken, *parts, SETTINGS, checkpoints=checkpoints, note=spoil)
    resumed, _ = trained(net, parts, checkpoints=dataclasses.replace(checkpoints, resume=True))
    assert same(resumed, trained(net, parts)[0])


def test_an_exploding_loss_is_reported(net, parts):
    settings = dataclasses.replace(SETTINGS, lr=1e6, optimizer="sgd", clip=0, epochs=5)
    with pytest.raises(StageError, match=r"loss (exploded|became)"):
        trained(net, parts, settings)


def test_a_full_disk_keeps_the_checkpoint_before_it(net, parts, tmp_path, monkeypatch):
    with interrupted_at(5):
        trained(net, parts, checkpoints=Checkpoint(folder=tmp_path, every_s=0))

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tlopt.training.resumption.checkpoint.save_file", full)
        with pytest.raises(StageError, match=r"No space left.*The checkpoint before it stands"):
            trained(net, parts, checkpoints=Checkpoint(folder=tmp_path, resume=True))
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["checkpoint.safetensors"]
    resumed, _ = trained(net, parts, checkpoints=Checkpoint(folder=tmp_path, resume=True))
    assert same(resumed, trained(net, parts)[0])


def test_the_best_epoch_is_kept_and_patience_stops(net, parts):
    settings = dataclasses.replace(SETTINGS, epochs=12, patience=2)
    net, history = trained(net, parts, settings)
    logits, labels = predict(net, parts[1], device=CPU)
    best = history.epochs[history.best]
    assert best["val_accuracy"] == max(record["val_accuracy"] for record in history.epochs)
    assert (logits.argmax(1) == labels).mean() == best["val_accuracy"]
    assert len(history.epochs) < 12


def judged_as(monkeypatch, *accuracies):
    """Let the validation of each epoch find one of some accuracies, whatever the network answers."""
    left = list(accuracies)
    monkeypatch.setattr(
        "tlopt.training.loop.judged", lambda *_, **__: {"val_loss": 0.5, "val_accuracy": left.pop(0)}
    )  # fmt: skip


def test_a_lucky_epoch_on_few_images_does_not_stay(net, parts, monkeypatch):
    without, _ = trained(net, (parts[0], None))  # it has the weights of its last epoch
    judged_as(monkeypatch, 0.8, 0.6, 0.7)
    net, history = trained(net, parts)
    assert len(parts[1]) < 50
    assert history.best == 2
    assert same(net, without)


def test_an_epoch_that_is_clearly_better_stays(net, parts, monkeypatch):
    history = History(epochs=[{"val_accuracy": 0.9}, {"val_accuracy": 0.5}], best=0)
    assert history.last_will_do(4)
    assert not history.last_will_do(40)
    judged_as(monkeypatch, 0.2, 1.0, 0.1)
    net, history = trained(net, parts)
    assert history.best == 1
    assert history.epochs[1]["val_accuracy"] == 1


def test_with_patience_the_best_epoch_stays(net, parts, monkeypatch):
    judged_as(monkeypatch, 0.8, 0.6, 0.7)
    _, history = trained(net, parts, dataclasses.replace(SETTINGS, patience=3))
    assert history.best == 0


def test_the_average_of_the_last_epoch_stays_too(net, parts, monkeypatch):
    settings = dataclasses.replace(SETTINGS, ema=0.9)
    without, _ = trained(net, (parts[0], None), settings)
    judged_as(monkeypatch, 0.8, 0.6, 0.7)
    averaged, history = trained(net, parts, settings)
    assert history.best == 2
    assert same(averaged, without)


def test_training_the_head_leaves_the_backbone_alone(net, parts):
    after, _ = trained(net, parts, dataclasses.replace(SETTINGS, moves="head", weight_decay=0.5))
    for (name, old), new in zip(net.state_dict().items(), after.state_dict().values(), strict=True):
        assert torch.equal(old, new) != name.startswith("fc."), name


def test_frozen_norms_keep_their_statistics(net, parts):
    after, _ = trained(net, parts, dataclasses.replace(SETTINGS, frozen_norm=True))
    for name, old in net.named_buffers():
        assert torch.equal(old, after.get_buffer(name)), name
    assert not torch.equal(net.stem[1].weight, after.stem[1].weight)


def test_a_set_smaller_than_a_batch_is_one_batch(net, parts):
    _, history = trained(net, parts, dataclasses.replace(SETTINGS, batch=512))
    assert len(history.epochs) == 3


def test_a_student_comes_close_to_its_teacher(net, parts):
    teacher_net, _ = trained(net, parts, dataclasses.replace(SETTINGS, epochs=6))
    preprocess = parts[0].preprocess
    seen = []

    def answer(inputs):
        seen.append(inputs)
        with torch.no_grad():
            return teacher_net(torch.from_numpy(inputs)).numpy()

    settings = dataclasses.replace(SETTINGS, teacher_weight=1.0, epochs=6, flip="none", crop=1.0)
    student, _ = trained(net, parts, settings, teacher=Teacher(answer, own=preprocess, student=preprocess))
    own, theirs = (predict(n, parts[1], device=CPU)[0].argmax(1) for n in (student, teacher_net))
    assert (own == theirs).mean() > 0.9
    assert seen[0].shape == (8, 3, 32, 32)


def test_a_students_features_turn_towards_its_teachers(net, parts):
    torch.manual_seed(1)
    teacher = type(net)().eval()
    settings = dataclasses.replace(SETTINGS, teacher_weight=0.0, teacher_features=20.0, epochs=6)
    far, _ = trained(net, parts, dataclasses.replace(settings, teacher_features=0.0), teacher=teacher)
    near, _ = trained(net, parts, settings, teacher=teacher)

    def direction(model):
        crops = torch.from_numpy(np.stack([parts[1].crop(i) for i in range(len(parts[1]))]))
        inputs = parts[1].preprocess.normalize(crops.numpy())
        features = model.pool(model.body(model.stem(torch.from_numpy(inputs)))).flatten(1)
        return torch.nn.functional.normalize(features)

    with torch.no_grad():
        wanted = direction(teacher)
        assert (direction(near) - wanted).norm() < 0.8 * (direction(far) - wanted).norm()


PAIR = """
import sys, torch
import torch._dynamo  # the first step of an optimizer imports it, which takes a second in each child
from pathlib import Path
from safetensors.torch import save_file
from tlopt.images import scan
from tlopt.images.opening import open_pixels
from tlopt.training import distributed
from tlopt.training.resumption.checkpoint import Checkpoint
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.loop import Run, train
from tlopt.preprocess import Preprocess

sys.path.insert(0, sys.argv[1])
from tiny_nets import TinyNet
from two_processes import run_in_one, run_in_two

torch.set_num_threads(1)

def trained(target):
    torch.manual_seed(0)
    net = TinyNet()
    net.drop.p = 0.0
    with distributed.group():
        folders = scan(sys.argv[2]).split(val=0.25, test=0.0, seed=0)
        pixels = [open_pixels(folders[part], Preprocess(size=32), cache_gb=0).filled() for part in ("train", "val")]
        settings = Hyperparameters(epochs=2, batch=8, lr=0.02, frozen_norm=True, l2_sp=0.01, moves="gradual",
                                   precision="fp32")
        train(net, *pixels, settings, checkpoints=Checkpoint(folder=target.with_suffix(".state")))
    if distributed.rank() == 0:
        save_file(net.state_dict(), target)

out = Path(sys.argv[3])
sys.exit(run_in_one(lambda: trained(out / "one")) or run_in_two(lambda: trained(out / "two")))
"""


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(photos, tmp_path):
    script = [sys.executable, "-c", PAIR, str(Path(__file__).parents[1]), str(photos), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(script, check=False, timeout=600, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from safetensors.torch import load_file

    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    # Two halves of a batch are summed up in another order; AdamW's first steps enlarge what that changes.
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_batch_that_processes_cannot_share_is_refused(net, parts, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SettingError, match="cannot be shared evenly among 3"):
        trained(net, parts)


def test_a_network_with_a_layer_that_compiled_code_spoils_is_trained_as_it_is(net, parts, caplog):
    net.strided = torch.nn.Conv2d(3, 4, 1, stride=2)
    run = Run(net, *parts, dataclasses.replace(SETTINGS, compile=True), None, None)
    assert run.forward() is run.model
    assert "not compiled" in caplog.text


def test_the_loss_is_read_after_all_of_the_step_is_queued(net, parts, monkeypatch):
    """Whoever reads it waits for the GPU, which would then stand idle until the rest of the step is queued."""
    events, read = [], torch.Tensor.__float__
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: events.append("read") or read(tensor))
    hook = register_optimizer_step_post_hook(lambda *_: events.append("moved"))
    try:
        trained(net, parts, dataclasses.replace(SETTINGS, epochs=1))
    finally:
        hook.remove()
    steps = events.count("moved")
    assert steps > 1
    assert events[: 2 * steps] == ["moved", "read"] * steps


@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_a_gpu_gets_batches_of_one_size(count):
    images = np.arange(4 * 12).reshape(4, 2, 2, 3)
    assert of_one_size(images, count, CPU) is images
    found = of_one_size(images, count, torch.device("cuda"))
    assert len(found) == max(4, count)
    np.testing.assert_array_equal(found[:4], images)
    assert all((one == images[-1]).all() for one in found[4:])
