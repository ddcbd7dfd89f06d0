import pytest

from tlopt.errors import ImagesError
from tlopt.reading import names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("caf\udce9", r"caf\xe9"),
        ("a\x9bb\x00", r"a\x9bb\x00"),
        ("a\u202eb", r"a\u202eb"),
        ("日本 é 🐈", "日本 é 🐈"),
    ],
)
def test_what_is_shown_is_printable_utf8(name, shown):
    assert names.shown(name) == names.shown_name(name) == shown
    names.shown(name).encode("utf-8")


def test_a_text_keeps_its_lines_and_tabs_and_a_name_does_not():
    assert names.shown("a\tb\nc\r") == "a\tb\nc\\x0d"
    assert names.shown_name("a\tb\nc") == r"a\x09b\x0ac"


def test_a_dollar_is_drawn_as_a_dollar():
    assert names.drawn("$100_$200\x1b") == r"\$100_\$200\x1b"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("caf\udce9", r"class caf\\xe9 of photos is not written in UTF-8"),
        ("\x1b[31mred", r"class \\x1b\[31mred of photos holds the control character \\x1b"),
        ("a\nb", r"holds the control character \\x0a"),
        ("x" * 1001, "has 1001 characters, more than 1000"),
    ],
)
def test_class_names_that_cannot_be_written_or_shown_are_refused(name, what):
    with pytest.raises(ImagesError, match=what):
        names.check_classes(["plain", name], "photos")


def test_class_names_of_any_language_are_taken():
    names.check_classes(["$100_$200", "日本", "café", "a b", "🐈", "<&>"], "photos")
