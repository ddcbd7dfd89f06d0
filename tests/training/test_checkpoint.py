import pytest
import torch

from tlopt.errors import ArtifactError, SettingError
from tlopt.training import checkpoint
from tlopt.training.checkpoint import FILE, State


@pytest.mark.parametrize("record", ["[1]", "[" * 5000, '{"a": 1, "a": 2}', "{"])
def test_a_damaged_record_is_one_error_that_names_the_file(record, tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / FILE
    save_file({"model/a": torch.ones(1)}, file, metadata={"record": record})
    with pytest.raises(ArtifactError, match=rf"The checkpoint .*{FILE} is damaged: ") as caught:
        checkpoint.read(file)
    assert "without --resume" in caught.value.hint


def test_a_loss_that_is_no_number_is_read_again(tmp_path):
    state = State(tensors={"model/a": torch.ones(1)}, record={"history": [{"loss": float("nan")}]})
    checkpoint.write(tmp_path / FILE, state)
    assert checkpoint.read(tmp_path / FILE).record["history"][0]["loss"] != 0


def test_a_state_that_lacks_something_is_one_error_that_names_the_file(tmp_path):
    with pytest.raises(ArtifactError, match=rf"{FILE} is damaged: 'history'"), checkpoint.taking_up(tmp_path / FILE):
        _ = {}["history"]
    with pytest.raises(SettingError, match="of another network"), checkpoint.taking_up(tmp_path / FILE):
        raise SettingError("of another network")
