import codecs
import logging

import pytest

from tlopt.errors import SettingError
from tlopt.imports.class_names import read_classes

FORMS = {
    "plain": b"a\nb\nc\n",
    "windows": codecs.BOM_UTF8 + b"a\r\nb\r\nc\r\n",
    "utf-16": "a\r\nb\r\nc".encode("utf-16"),
    "big endian": codecs.BOM_UTF16_BE + "a\nb\nc".encode("utf-16-be"),
    "list": b'["a", "b", "c"]',
    "list with a mark": codecs.BOM_UTF8 + b'["a", "b", "c"]',
    "numbers by names": b'{"c": 2, "a": 0, "b": 1}',
    "names by numbers": b'{"2": "c", "0": "a", "1": "b"}',
    "imagenet": b'{"0": ["n1", "a"], "1": ["n2", "b"], "2": ["n3", "c"]}',
    "hugging face": b'{"model_type": "resnet", "id2label": {"0": "a", "1": "b", "2": "c"}}',
    "teachable machine": b"0 a\n1 b\n2 c\n",
    "numbered": b"0: a\n1: b\n2: c\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_class_files_of_other_programs_are_read(tmp_path, form):
    (tmp_path / "classes").write_bytes(FORMS[form])
    assert read_classes(tmp_path / "classes") == ("a", "b", "c")


def test_words_of_imagenet_that_repeat_give_way_to_their_ids(tmp_path):
    (tmp_path / "x.json").write_text('{"0": ["n1", "crane"], "1": ["n2", "crane"]}')
    assert read_classes(tmp_path / "x.json") == ("n1", "n2")


@pytest.mark.parametrize("names", [("0 euro", "1 euro"), ("0", "1"), ("7 up", "8 up")])
def test_names_that_begin_with_numbers_are_names(tmp_path, names):
    (tmp_path / "x.txt").write_text("\n".join(names))
    assert read_classes(tmp_path / "x.txt") == names


@pytest.mark.parametrize("text", ['{"a": "b", "c": "d"}', '{"a": 0, "b": 2}', '{"0": "a", "2": "b"}', "{", "[1.5, {}]",
                                  '{"0": {"x": 1}, "1": "b"}', "[]", "{}"])  # fmt: skip
def test_json_of_another_form_is_an_error_in_words(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SettingError, match=r"JSON|names too few classes: 0|cannot be read"):
        read_classes(tmp_path / "x.json")


def test_names_that_differ_by_case_alone_are_told(tmp_path, caplog):
    (tmp_path / "x.txt").write_text("Glass\nglass\nmetal can\nmetal_can\npaper\n")
    with caplog.at_level(logging.WARNING, "tlopt"):
        read_classes(tmp_path / "x.txt")
    assert "'Glass' and 'glass'" in caplog.text
    assert "'metal can' and 'metal_can'" in caplog.text


def test_a_file_that_is_not_there_is_named_in_words(tmp_path):
    with pytest.raises(SettingError, match="cannot be read: No such file or directory"):
        read_classes(tmp_path / "none")
    with pytest.raises(SettingError, match="cannot be read: it is a folder, no regular file"):
        read_classes(tmp_path)
