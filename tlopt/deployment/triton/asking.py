"""What a request to a served model looks like: as arrays, and as the body of a request over HTTP."""

from __future__ import annotations

import json
import shlex
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlopt.deployment import reference
from tlopt.deployment.job import Job
from tlopt.deployment.serving.client import Endpoint

_TYPES = {"uint8": "UINT8", "float32": "FP32", "float16": "FP16"}  # as the protocol calls them


def request_inputs(job: Job, files: Mapping[str, bytes]) -> list[np.ndarray]:
    """Return image files as what requests hold: their bytes, uint8 (n,), or inputs of the network.

    A network with a fixed batch gets the image so many times.
    """
    if job.input == "image":
        return [np.frombuffer(content, np.uint8) for content in files.values()]
    rows = job.served.normalize(reference.pixels(job, files))
    return [np.stack([row] * job.fixed_batch) for row in rows] if job.fixed_batch else list(rows)


@dataclass(frozen=True, kw_only=True)
class Body:
    """The body of a request over HTTP.

    Args:
        content: JSON, then the input as bytes.
        head: Length of the JSON.
    """

    content: bytes
    head: int

    @classmethod
    def read(cls, file: Path) -> Body:
        """Return one that is stored in a file."""
        content = file.read_bytes()
        _, end = json.JSONDecoder().raw_decode(content.decode("latin-1"))  # which has a letter for each byte
        return cls(content=content, head=end)

    def command(self, file: str | Path, model: str, host: str, port: int) -> str:
        """Return a command line that sends it.

        Args:
            file: Where it is stored.
            model: Name of the model.
            host: Where the server is, as part of an address.
            port: Its port of HTTP.
        """
        address = f"http://{host}:{port}/v2/models/{model}/infer"
        header = f"Inference-Header-Content-Length: {self.head}"
        return f"curl -s {address} -H '{header}' --data-binary {shlex.quote(f'@{file}')}"


def body(endpoint: Endpoint, inputs: np.ndarray, *, classes: int) -> Body:
    """Return a request about one input.

    Args:
        endpoint: The model.
        inputs: As `request_inputs` gives it.
        classes: How many of the best labels to ask for; 0 for the numbers.
    """
    count = endpoint.fixed_batch
    if endpoint.takes_files:
        one = inputs.tobytes()
        # In the protocol, each element is its length and its bytes.
        data, kind, shape = (struct.pack("<I", len(one)) + one) * max(1, count), "BYTES", [count or 1]
    else:
        data, kind, shape = inputs.tobytes(), _TYPES[inputs.dtype.name], list(inputs.shape)
    given = {
        "name": endpoint.input,
        "shape": shape if count else [1, *shape],
        "datatype": kind,
        "parameters": {"binary_data_size": len(data)},
    }
    wanted = {"name": endpoint.output, **({"parameters": {"classification": classes}} if classes else {})}
    head = json.dumps({"inputs": [given], "outputs": [wanted]}).encode()
    return Body(content=head + data, head=len(head))
