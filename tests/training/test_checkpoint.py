import pytest
import torch

from tlopt.errors import ArtifactError, SettingError, StageError
from tlopt.training.resumption import checkpoint
from tlopt.training.resumption.checkpoint import FILE, State


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


def test_a_first_checkpoint_that_cannot_be_written_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_args, **_settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    for held in ([], ["other"]):
        folder = tmp_path / f".out{len(held)}.checkpoint"
        for name in held:
            folder.mkdir()
            (folder / name).touch()
        with pytest.raises(StageError, match="No space left"):
            checkpoint.write(folder / FILE, State(tensors={"model/a": torch.ones(1)}, record={}))
        assert folder.exists() is bool(held)


def test_damage_inside_a_checkpoint_is_seen(tmp_path):
    file = tmp_path / FILE
    checkpoint.write(file, State(tensors={"model/a": torch.ones(64), "model/n": torch.tensor(3)}, record={"epoch": 1}))
    assert checkpoint.read(file).tensors["model/n"] == 3
    content = bytearray(file.read_bytes())
    content[-40] ^= 255
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{FILE} is damaged: its content is not what was written"):
        checkpoint.read(file)


def test_a_checkpoint_without_a_digest_is_of_an_older_version(tmp_path):
    from safetensors.torch import save_file

    save_file({"model/a": torch.ones(1)}, tmp_path / FILE, metadata={"record": "{}"})
    assert checkpoint.read(tmp_path / FILE).tensors.keys() == {"model/a"}


def test_a_run_that_starts_over_tells_of_the_checkpoint_that_it_could_go_on_from(tmp_path, caplog):
    place = checkpoint.Checkpoint(folder=tmp_path)
    place.tell_of_another()
    assert caplog.text == ""
    place.file.touch()
    checkpoint.Checkpoint(folder=tmp_path, resume=True).tell_of_another()
    assert caplog.text == ""
    place.tell_of_another()
    assert "add --resume" in caplog.text
