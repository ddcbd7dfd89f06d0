import errno

import pytest

from tlopt.errors import StageError, TloptError, reason, suggestion, wrapping
from tlopt.reading.files import IrregularFileError


def test_a_long_list_of_names_does_not_fill_the_screen():
    hint = suggestion("?", [f"tensor-{i:03}" for i in range(100)] * 2)
    assert hint.startswith("Known: tensor-000, tensor-001")
    assert hint.endswith("tensor-029 and 70 more.")
    assert suggestion("?", ["a", "b", "a"]) == "Known: a, b."


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_with_what_to_do(error):
    with (
        pytest.raises(StageError, match="export stopped: there is no space left on the disk") as caught,
        wrapping("export"),
    ):
        raise error
    assert "choose another --out" in caught.value.hint


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("The file cannot be read: it is a pipe..", "The file cannot be read: it is a pipe."),
        ("It has the unknown key 'a'. Did you mean 'b'?.", "It has the unknown key 'a'. Did you mean 'b'?"),
        ("There is no file at images/...", "There is no file at images/..."),
        ("There is no file at ...", "There is no file at ..."),
        ("There is no file at ..", "There is no file at .."),
        ("a.. is a folder.", "a.. is a folder."),
    ],
)
def test_a_sentence_ends_once_whatever_a_library_said_at_its_end(message, told):
    assert TloptError(message).message == told
    assert str(TloptError(message)) == told
    assert TloptError(message).args == (told,)


def test_a_reason_is_one_line_without_a_period():
    assert reason(OSError(errno.ENOENT, "No such file", "/a")) == "No such file"
    assert reason(IrregularFileError("/a", "is a named pipe")) == "it is a named pipe"
    assert reason(ValueError("First.\nSecond.")) == "First"
    assert reason(ValueError()) == "ValueError"
