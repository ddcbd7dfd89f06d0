from __future__ import annotations

import shutil

import pytest
from calling import called

from tlopt.errors import ImagesError, SettingError
from tlopt.measure.predict import predict


def test_answers_below_a_confidence_are_marked(tiny, swatches):
    every = list(predict(tiny, swatches))
    assert all(one.sure for one in every)
    between = sorted(one.probabilities[0] for one in every)[len(every) // 2]
    marked = list(predict(tiny, swatches, min_confidence=between))
    assert [one.sure for one in marked] == [one.probabilities[0] >= between for one in marked]
    assert not all(one.sure for one in marked)
    for one in marked:
        assert one.line().split("\t")[1].startswith("unsure: ") is not one.sure
        assert one.to_dict()["sure"] is one.sure


@pytest.mark.parametrize("wrong", [-0.1, 1.1])
def test_a_confidence_is_a_share(wrong, tiny, swatches):
    with pytest.raises(SettingError, match="min_confidence"):
        predict(tiny, swatches, min_confidence=wrong)


def test_a_single_image_that_cannot_be_read_is_told_as_what_it_is(tiny, tmp_path, caplog):
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ImagesError) as raised:
        list(predict(tiny, tmp_path / "empty.jpg"))
    assert raised.value.message == f"{tmp_path / 'empty.jpg'} cannot be read as an image: it is empty."
    assert not caplog.messages


def test_a_script_notices_that_an_image_got_no_answer(tiny, swatches, tmp_path, capsys):
    folder = tmp_path / "images"
    shutil.copytree(swatches, folder)
    (broken := next(folder.glob("*/*"))).write_bytes(b"no image")
    answers = predict(tiny, folder)
    said = list(answers)
    assert len(said) == len(list(predict(tiny, swatches))) - 1
    assert list(answers.unreadable) == [broken.relative_to(folder).as_posix()]
    for option in ([], ["--json"], ["--quiet"]):
        code, out, err = called(capsys, "predict", tiny.path, folder, *option)
        assert (code, len(out.splitlines())) == (1, len(said))
        assert err.splitlines()[-2].startswith(f"Error: 1 of the {len(said) + 1} images cannot be read")
        assert broken.name in err


def test_all_images_that_can_be_read_are_answered_however_many_cannot(tiny, swatches, tmp_path, capsys):
    for number, file in enumerate(sorted(swatches.glob("*/*"))[:9]):
        (tmp_path / f"{number}.png").write_bytes(file.read_bytes() if number % 3 == 0 else b"no image")
    code, out, err = called(capsys, "predict", tiny.path, tmp_path)
    assert (code, len(out.splitlines())) == (1, 3)
    assert "6 of the 9 images cannot be read and got no answer" in err
    for number in (0, 3, 6):
        (tmp_path / f"{number}.png").unlink()
    code, out, err = called(capsys, "predict", tiny.path, tmp_path)
    assert (code, out) == (1, "")
    assert "6 of the 6 images cannot be read; first: " in err
