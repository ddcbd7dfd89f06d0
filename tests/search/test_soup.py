import pytest
import torch
from safetensors.torch import load_file, save_file

from tlopt.artifact import Artifact, seal
from tlopt.publishing import draft
from tlopt.search.funnel.soup import soup


def biased(source, place, amount):
    """Copy an artifact that answers its first class more often, or less."""
    with draft(place) as made:
        state = load_file(source.payload(".safetensors"))
        state["classifier.bias"][0] += amount
        save_file(state, made / "model.safetensors")
        seal(made.folder, source.card)
    return Artifact.load(place)


@pytest.mark.slow
def test_a_mean_of_weights_is_kept_where_it_is_right_more_often(tuned, tmp_path):
    one, other = biased(tuned, tmp_path / "one", 100), biased(tuned, tmp_path / "other", -100)
    mixed = soup(one, tmp_path / "mixed", names=("one", "other"), others=(str(other.path),), cache_gb=0)
    for name, tensor in load_file(mixed.payload(".safetensors")).items():
        assert torch.allclose(tensor.float(), load_file(tuned.payload(".safetensors"))[name].float(), atol=1e-5)
    assert mixed.card.torch.metrics["mean_of"] == ["one", "other"]
    assert mixed.card.lineage[-1].stage == "soup"
    assert mixed.card.lineage[-1].settings["names"] == ["one", "other"]
    assert str(other.path) not in mixed.card.to_json()  # it is gone when the search is over
    alone = soup(tuned, tmp_path / "alone", names=("tuned", "other"), others=(str(other.path),), cache_gb=0)
    assert alone.card.torch.metrics["mean_of"] == ["tuned"]
    before = tuned.card.torch.metrics
    [kept] = [one for one in before["candidates"] if one["share"] == before["fine_tuned_share"]]
    assert alone.card.torch.metrics["loss"] == pytest.approx(kept["loss"], abs=1e-6)  # of the same answers
    assert (
        alone.digest == tuned.digest or alone.card.files["model.safetensors"] == tuned.card.files["model.safetensors"]
    )
