import logging
from types import SimpleNamespace

import pytest

from tlopt.engine.messages import Messages, parse_error, take


def error(code="UNSUPPORTED_NODE", *, node=3, name="act", operator="Det", detail="false"):
    return SimpleNamespace(
        code=lambda: f"ErrorCode.{code}",
        node=lambda: node,
        node_name=lambda: name,
        node_operator=lambda: operator,
        desc=lambda: detail,
    )


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([], "cannot read m.onnx"),
        ([error()], "cannot take node 'act' (number 3, operator Det) in m.onnx."),
        ([error(), error()], "(1 more refused.)"),
        ([error("MODEL_DESERIALIZE_FAILED", node=-1, operator="")], "not a readable ONNX file"),
        ([error("INVALID_NODE", detail="creator && Plugin not found")], "does not know the operator Det"),
        ([error("UNSUPPORTED_NODE_DATATYPE", detail="INT4")], "Cast the node's inputs"),
        ([error("INVALID_GRAPH", node=-1, operator="", detail="no output")], "refuses m.onnx: no output"),
    ],
)
def test_what_the_parser_refuses_is_told_in_words(errors, expected):
    assert expected in str(parse_error(errors, "m.onnx"))


class Api:
    """Test double of the library: the base of its loggers."""

    ILogger = object


@pytest.fixture
def messages():
    return Messages(Api)


def test_errors_lose_their_source_locations_and_those_for_want_of_a_gpu_are_left_out(messages):
    take("ERROR", "IBuilder::build: Error Code 4: API Usage Error (no profile. In validate at /_src/network.cpp:4023)")
    take("ERROR", "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime")
    assert messages.last() == "API Usage Error (no profile.)"


def test_messages_go_to_logging_at_their_level_but_errors_only_to_the_exception(messages, caplog):
    with caplog.at_level(logging.DEBUG, "tlopt.engine.messages"):
        take("VERBOSE", "Layers:\nName: a")
        take("WARNING", "slow")
        take("INTERNAL_ERROR", "broken")
    assert [record.levelname for record in caplog.records] == ["DEBUG", "WARNING", "INFO"]
    assert messages.layers == "Layers:\nName: a"


def test_all_that_listen_hear_the_one_logger_of_the_library(messages):
    second = Messages(Api)
    assert second.logger is messages.logger
    take("ERROR", "broken")
    assert messages.errors == second.errors == ["broken"]
