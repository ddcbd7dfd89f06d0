"""Protobuf's text format."""

from __future__ import annotations

import pytest

from tlopt.deployment.triton.pbtxt import Word, text


def test_a_message_is_written_field_by_field():
    message = {
        "name": "a",
        "max_batch_size": 8,
        "zero_data": True,
        "kind": Word("KIND_CPU"),
        "dims": (3, 32, 32),
        "dynamic_batching": {"max_queue_delay_microseconds": 500},
        "input": [{"name": "x"}, {"name": "y"}],
    }
    assert text(message) == (
        'name: "a"\n'
        "max_batch_size: 8\n"
        "zero_data: true\n"
        "kind: KIND_CPU\n"
        "dims: [3, 32, 32]\n"
        "dynamic_batching {\n"
        "  max_queue_delay_microseconds: 500\n"
        "}\n"
        'input {\n  name: "x"\n}\n'
        'input {\n  name: "y"\n}\n'
    )


@pytest.mark.parametrize("value", ['a "quoted" name', "a\\b", "two\nlines", "tab\there", "Überraschung"])
def test_a_string_is_read_back_as_it_was(value):
    protobuf = pytest.importorskip("google.protobuf.text_format")
    from google.protobuf import wrappers_pb2

    assert protobuf.Parse(text({"value": value}), wrappers_pb2.StringValue()).value == value
