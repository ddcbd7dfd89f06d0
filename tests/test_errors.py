import errno

import pytest

from tlopt.errors import StageError, suggestion, wrapping


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
