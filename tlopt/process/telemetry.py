"""Libraries that report their use to their makers are told not to, before they are imported.

ONNX Runtime 1.29 and later writes an identifier of the machine and reports each session (Privacy.md there). OpenVINO
reports only from its model converter, which tlopt does not use.
"""

from __future__ import annotations

import os

# Each is read when the library begins; what a user has set stays.
VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")


def switch_off() -> None:
    """Set the variables that the libraries read, for this process and those that it starts."""
    for name in VARIABLES:
        os.environ.setdefault(name, "1")
