"""Requests to a tritonserver and its answers, over HTTP and gRPC alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

LIBRARIES = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@dataclass(frozen=True)
class Served:
    """A model and where it is asked.

    Args:
        model: Its name.
        input: Name of its input.
        output: Name of its output.
        http: Host and port.
        grpc: Host and port.
    """

    model: str
    input: str
    output: str
    http: str
    grpc: str

    def client(self, protocol: str) -> Any:
        """Return a client of "http" or "grpc"."""
        if protocol == "grpc":
            return tritonclient.grpc.InferenceServerClient(self.grpc)
        patience = {"connection_timeout": 600.0, "network_timeout": 600.0}
        return tritonclient.http.InferenceServerClient(self.http, **patience)

    def request(self, protocol: str, inputs: np.ndarray, *, classes: int = 0) -> dict[str, Any]:
        """Return the arguments of `infer`.

        Args:
            protocol: "http" or "grpc".
            inputs: With the batch axis; of dtype object for bytes.
            classes: Ask for so many labels instead of the numbers.
        """
        library = LIBRARIES[protocol]
        kind = {"object": "BYTES", "uint8": "UINT8", "float32": "FP32", "float16": "FP16"}[inputs.dtype.name]
        given = library.InferInput(self.input, list(inputs.shape), kind)
        given.set_data_from_numpy(inputs)
        wanted = library.InferRequestedOutput(self.output, **({"class_count": classes} if classes else {}))
        return {"model_name": self.model, "inputs": [given], "outputs": [wanted]}
