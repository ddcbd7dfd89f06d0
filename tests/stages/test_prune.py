import numpy as np
import pytest
import torch
from PIL import Image

from tlopt import sources
from tlopt.artifact import Artifact, seal
from tlopt.cards.card import Card, ImagesRef
from tlopt.cards.details import Macs, TorchDetails
from tlopt.errors import ImagesError, SettingError, StageError
from tlopt.images import scan
from tlopt.networks import removal, sparsity, weights
from tlopt.preprocess import Preprocess
from tlopt.pruning import analysis, latency
from tlopt.publishing import draft
from tlopt.settings import parameters
from tlopt.show import show
from tlopt.stages.finetune import finetune
from tlopt.stages.prune import prune
from tlopt.training import loop
from tlopt.training.methods import brief
from tlopt.training.outcome.history import History

MODEL = "timm:test_efficientnet"
SIZE = 32


@pytest.fixture(autouse=True)
def one_thread():
    """Threads cost more than they gain on networks so small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of 24 small images: light noise and dark noise."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for label, (low, high) in {"dark": (0, 120), "light": (100, 255)}.items():
        (root / label).mkdir()
        for i in range(24):
            pixels = random.integers(low, high, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    return root


def write(out, *, photos=None, model=MODEL, classes=("dark", "light"), size=SIZE):
    torch.manual_seed(0)
    network = sources.build(model, classes=len(classes), size=size)
    ref = None
    if photos is not None:
        ref = ImagesRef(path=str(photos), digest=scan(photos).digest, val=0.2, test=0.2, seed=0)
    with draft(out) as scratch:
        seal(
            scratch,
            Card(
                kind="torch", model=model, precision="fp32", classes=classes, preprocess=Preprocess(size=size),
                images=ref, details=TorchDetails(groups=weights.save(network, scratch), unreadable={"a": "empty"}),
            ),
        )  # fmt: skip
    return Artifact.load(out)


@pytest.fixture(scope="module")
def artifact(photos, tmp_path_factory):
    return write(tmp_path_factory.mktemp("artifacts") / "whole", photos=photos)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def macs(artifact):
    return analysis.multiply_adds(sources.open_model(artifact), SIZE)


def test_a_pruned_artifact_needs_the_share_of_multiply_adds_that_was_asked_for(artifact, cache, tmp_path):
    pruned = prune(artifact, tmp_path / "pruned", ratio=0.4, epochs=1, samples=16, multiple=4, cache_dir=cache)
    before, after = macs(artifact), macs(pruned)
    assert after <= 0.6 * before
    assert after > 0.4 * before  # the last step of four channels cannot overshoot by more in this network
    assert pruned.card.torch.macs == Macs(before=before, after=after)
    assert len(pruned.card.torch.pruned.recovery) == 1
    assert pruned.card.torch.unreadable == artifact.card.torch.unreadable
    assert pruned.card.classes == artifact.card.classes


@pytest.mark.slow
def test_a_pruned_artifact_is_pruned_again(artifact, cache, tmp_path):
    first = prune(artifact, tmp_path / "first", ratio=0.3, epochs=0, samples=16, multiple=4, cache_dir=cache)
    second = prune(first, tmp_path / "second", ratio=0.3, epochs=0, samples=16, multiple=4, cache_dir=cache)
    assert macs(second) <= 0.7 * macs(first)
    assert [step.stage for step in second.card.lineage] == ["prune", "prune"]


def test_several_steps_reach_the_same_share(artifact, cache, tmp_path):
    pruned = prune(artifact, tmp_path / "a", ratio=0.5, steps=2, epochs=1, samples=16, multiple=4, cache_dir=cache)
    assert macs(pruned) <= 0.5 * macs(artifact)
    assert len(pruned.card.torch.pruned.recovery) == 2


def test_the_same_seed_gives_the_same_weights(artifact, cache, tmp_path):
    settings = {"ratio": 0.3, "epochs": 1, "samples": 16, "multiple": 4, "seed": 3, "cache_dir": cache}
    first, second = (prune(artifact, tmp_path / name, **settings) for name in "ab")
    assert first.card.files == second.card.files


def test_a_network_that_is_not_to_shrink_stays_whole(artifact, cache, tmp_path):
    pruned = prune(artifact, tmp_path / "a", ratio=0, epochs=0, samples=16, cache_dir=cache)
    assert macs(pruned) == macs(artifact)


def test_an_imported_model_is_pruned_by_its_weights_alone(tmp_path):
    imported = write(tmp_path / "imported")
    pruned = prune(imported, tmp_path / "pruned", ratio=0.3, criterion="magnitude", epochs=0, multiple=4)
    assert macs(pruned) <= 0.7 * macs(imported)


def test_recovery_without_images_names_the_way_out(tmp_path):
    imported = write(tmp_path / "imported")
    with pytest.raises(ImagesError, match="knows no training images") as caught:
        prune(imported, tmp_path / "pruned", criterion="magnitude", epochs=1)
    assert "--images" in caught.value.hint
    assert not (tmp_path / "pruned").exists()


def test_an_imported_model_recovers_on_given_images_in_its_own_class_order(photos, cache, tmp_path):
    imported = write(tmp_path / "imported", classes=("light", "dark"))
    pruned = prune(
        imported, tmp_path / "pruned", images=photos, epochs=1, samples=16, multiple=4, lr=3e-3, cache_dir=cache
    )
    assert pruned.card.classes == ("light", "dark")


def test_images_of_other_classes_are_refused(photos, tmp_path):
    imported = write(tmp_path / "imported", classes=("light", "blue"))
    with pytest.raises(ImagesError, match=r"not those of .*: it has no blue; .* does not know dark"):
        prune(imported, tmp_path / "pruned", images=photos)


def test_a_network_too_narrow_for_the_multiple_is_refused(artifact, cache, tmp_path):
    with pytest.raises(StageError, match=r"No group of channels is wide enough .* multiple of 4096"):
        prune(artifact, tmp_path / "a", multiple=4096, epochs=0, samples=16, cache_dir=cache)


@pytest.mark.slow
def test_a_step_that_finds_nothing_more_to_cut_keeps_those_before_it(artifact, cache, tmp_path, caplog):
    options = {"ratio": 0.9, "multiple": 32, "epochs": 1, "samples": 8, "cache_dir": cache}
    once = prune(artifact, tmp_path / "once", **options)
    twice = prune(artifact, tmp_path / "twice", steps=2, **options)
    assert macs(twice) == macs(once)
    assert "Only 1 of the 2 steps could be done. No group of channels is wide enough" in caplog.text


def test_a_ratio_out_of_range_is_refused(artifact, tmp_path):
    with pytest.raises(SettingError, match=r"ratio must be between 0 and 0\.95, got 2"):
        prune(artifact, tmp_path / "a", ratio=2)


def test_every_criterion_is_a_choice():
    known = next(p.known for p in parameters(prune) if p.name == "criterion")
    assert {"magnitude", "bn_scale", "taylor", "random", "logits"} <= set(known)


def test_2_4_sparsity_outlives_the_recovery(artifact, cache, tmp_path):
    pruned = prune(artifact, tmp_path / "a", ratio=0, sparsity="2:4", epochs=1, samples=16, multiple=4, cache_dir=cache)
    sparse = sparsity.layers(sources.open_model(pruned))
    assert len(sparse) > 5
    assert all(sparsity.follows(module.weight) for module in sparse.values())
    assert pruned.card.torch.pruned.sparsity == "2:4"


@pytest.mark.slow
def test_a_speed_up_is_measured_and_reported_with_what_was_asked(artifact, cache, tmp_path, monkeypatch):
    # Times are the multiply-adds: real ones of so small a network would not be the same twice. The table's are
    # off by a power, as a table of layers timed one by one is, so the first widths chosen by it are wrong.
    def times(models, size, batches, **_):
        return [dict.fromkeys(batches, analysis.multiply_adds(model, size) / 1e6) for model in models]

    class Table:
        def cost(self, layer, removed):
            return layer.macs(removed) ** 0.5

    monkeypatch.setattr(latency, "compare", times)
    monkeypatch.setattr(latency, "measure", lambda *_: Table())
    pruned = prune(
        artifact, tmp_path / "a", speedup=1.5, epochs=0, samples=16, multiple=4, cache_dir=cache, speedup_batch=(2,)
    )
    found = pruned.card.torch.pruned.speedup
    assert found.asked == 1.5
    assert 1.5 <= found.measured["2"] < 1.8
    assert macs(pruned) <= macs(artifact) / 1.5


@pytest.mark.slow
def test_an_impossible_speed_up_is_refused_before_the_recovery(artifact, cache, tmp_path, monkeypatch):
    def times(models, size, batches, **_):
        return [dict.fromkeys(batches, 1.0) for _ in models]

    monkeypatch.setattr(latency, "compare", times)
    with pytest.raises(StageError, match=r"cannot be made 3 x as fast in ONNX Runtime.* 1\.00 x") as caught:
        prune(artifact, tmp_path / "a", speedup=3, samples=16, multiple=4, cache_dir=cache, speedup_batch=(1,))
    assert "--speedup" in caught.value.hint


def test_a_share_that_cannot_be_reached_is_said_so(artifact, cache, tmp_path, caplog):
    pruned = prune(artifact, tmp_path / "a", ratio=0.95, epochs=0, samples=16, multiple=8, cache_dir=cache)
    assert "multiply-adds could be removed, not 95 %" in caplog.text
    assert macs(pruned) > 0.05 * macs(artifact)


def test_the_unpruned_network_on_smaller_images_is_looked_at(photos, cache, tmp_path):
    whole = write(tmp_path / "whole", photos=photos, size=64)
    pruned = prune(whole, tmp_path / "a", ratio=0.4, epochs=0, samples=16, multiple=4, cache_dir=cache)
    rival, macs = pruned.card.torch.pruned.rival, pruned.card.torch.macs
    assert rival.image_size in (40, 48)
    assert rival.macs <= macs.after < macs.before
    assert rival.images == 10  # a fifth of 48 images, for validation
    assert 0 <= rival.pruned_accuracy <= 1
    # Light and dark are told apart by any features.
    assert rival.accuracy == 1
    assert rival.command == f"tlopt finetune {photos} -o OUT --model {MODEL} --image-size {rival.image_size}"
    assert f"Rival: {rival.told()}" in show(Artifact.load(tmp_path / "a")).notes
    without = prune(whole, tmp_path / "b", ratio=0.4, epochs=0, samples=16, multiple=4, cache_dir=cache, rival=False)
    assert without.card.torch.pruned.rival is None
    assert without.card.files == pruned.card.files  # looking on changes nothing


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({}, 200),  # 28 images are one step of 32
        ({"batch": 8}, 67),  # three steps an epoch
        ({"batch": 2}, 15),
        ({"epochs": 3}, 3),
    ],
)
def test_few_images_recover_for_as_many_steps_as_it_takes(artifact, cache, tmp_path, monkeypatch, settings, epochs):
    asked = []

    def train(model, train, val, settings, **_):
        asked.append(settings.epochs)
        return History()

    monkeypatch.setattr(loop, "train", train)
    prune(artifact, tmp_path / "a", ratio=0.4, samples=16, multiple=4, cache_dir=cache, **settings)
    assert asked == [epochs]


BLOCKS = "timm:test_convnext"  # seven of its nine residual blocks are one of several in a stage


@pytest.fixture(scope="module")
def with_blocks(photos, tmp_path_factory):
    return write(tmp_path_factory.mktemp("artifacts") / "blocks", photos=photos, model=BLOCKS)


def judged_by(monkeypatch, losses):
    """Let short trainings find these losses, by the number of removed blocks."""
    monkeypatch.setattr(brief, "loss_after", lambda model, *_, **__: losses.get(len(removal.removed(model)), 9.0))


def test_as_many_blocks_go_as_do_best_after_a_short_training(with_blocks, cache, tmp_path, monkeypatch):
    judged_by(monkeypatch, {0: 1.0, 1: 1.1, 2: 0.8})
    options = {"ratio": 0.5, "blocks": "auto", "epochs": 1, "samples": 16, "multiple": 4, "cache_dir": cache}
    pruned = prune(with_blocks, tmp_path / "a", **options)
    gone, splits = pruned.card.torch.removed_blocks, pruned.card.torch.pruned.splits
    assert len(gone) == 2
    assert [split.loss for split in splits] == [1.0, 1.1, 0.8, 9.0, 9.0]
    assert [len(split.blocks) for split in splits] == [0, 1, 2, 3, 4]
    assert set(splits[2].blocks) == set(gone)
    assert macs(pruned) <= 0.5 * macs(with_blocks)
    opened = sources.open_model(Artifact.load(tmp_path / "a"))
    assert removal.removed(opened) == gone
    assert not any(name.startswith(gone) for name in opened.state_dict())
    [note] = [note for note in show(pruned).notes if note.startswith("Removed blocks")]
    assert ", ".join(gone) in note


@pytest.mark.slow
def test_what_follows_a_removal_keeps_it(with_blocks, cache, tmp_path, monkeypatch):
    judged_by(monkeypatch, {1: 0.5})
    options = {"blocks": "auto", "samples": 16, "multiple": 4, "cache_dir": cache}
    first = prune(with_blocks, tmp_path / "first", ratio=0.2, epochs=0, **options)
    again = finetune(first, tmp_path / "again", epochs=1, cache_dir=cache)
    assert again.card.torch.removed_blocks == first.card.torch.removed_blocks
    judged_by(monkeypatch, {2: 0.5})
    second = prune(again, tmp_path / "second", ratio=0.2, epochs=0, **options)
    assert len(second.card.torch.removed_blocks) == 2
    assert set(first.card.torch.removed_blocks) < set(second.card.torch.removed_blocks)


def test_removing_blocks_takes_images(tmp_path):
    imported = write(tmp_path / "imported")
    with pytest.raises(ImagesError, match="knows no training images") as caught:
        prune(imported, tmp_path / "pruned", criterion="magnitude", epochs=0, blocks="auto")
    assert caught.value.hint.endswith("--blocks keep.")


def test_a_network_without_removable_blocks_says_so_and_loses_channels(artifact, cache, tmp_path, caplog):
    pruned = prune(
        artifact, tmp_path / "a", ratio=0.3, blocks="auto", epochs=0, samples=16, multiple=4, cache_dir=cache
    )
    assert "No block of this network adds what it computes to what it is given" in caplog.text
    assert pruned.card.torch.removed_blocks == pruned.card.torch.pruned.splits == ()
    assert macs(pruned) <= 0.7 * macs(artifact)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["weight", "spectral"])
def test_weights_that_are_computed_from_others_are_cut_as_plain_ones(kind, tmp_path):
    model = f"odd_nets:normalized?kind={kind}"
    source = write(tmp_path / "whole", model=model)
    pruned = prune(source, tmp_path / "pruned", criterion="magnitude", ratio=0.3, epochs=0, blocks="keep", rival=False)
    assert pruned.card.torch.macs.after < pruned.card.torch.macs.before
    again = prune(pruned, tmp_path / "again", criterion="random", ratio=0.3, epochs=0, blocks="keep", rival=False)
    whole, cut = (sources.open_model(one) for one in (source, again))
    assert "0.0.parametrizations.weight.original0" in whole.state_dict() or kind == "spectral"
    assert cut.state_dict()["0.0.weight"].shape[0] < 24
