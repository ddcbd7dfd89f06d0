"""Reads configurations of models with Triton's own protobuf.

python -I parsing.py CONFIG.pbtxt …    one JSON object a line: the configuration, or what is wrong with it
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from google.protobuf import json_format, text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2


def main() -> None:
    """Read the files that are named on the command line."""
    for file in sys.argv[1:]:
        content = Path(file).read_text(encoding="utf-8")
        try:
            found = text_format.Parse(content, model_config_pb2.ModelConfig())
        except text_format.ParseError as error:
            answer: dict[str, object] = {"error": str(error)}
        else:
            answer = {"config": json_format.MessageToDict(found, preserving_proto_field_name=True)}
        sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
