"""The InferenceService of a deployment, for KServe on Kubernetes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from tlopt.deployment.job import Job

Server = Literal["triton", "openvino-server"]

# The serving runtimes by the names that KServe and OpenVINO Model Server install them under, with the format that
# each gives its models: kserve/kserve, config/runtimes; openvinotoolkit/model_server, extras/kserve.
_RUNTIMES: Mapping[Server, tuple[str, str, str]] = {
    "triton": ("kserve-tritonserver", "triton", "2"),
    "openvino-server": ("kserve-openvino", "openvino", "10"),
}


def service(
    job: Job, *, server: Server, folder: str, settings: Mapping[str, Any] | None = None, gpu: bool = False
) -> str:
    """Return the text of kserve.yaml.

    Args:
        job: The deployment.
        server: What serves it.
        folder: The folder of the deployment that has to be uploaded.
        settings: OpenVINO's settings, which its server takes as an argument here.
        gpu: Whether it runs on a GPU.
    """
    runtime, format_, version = _RUNTIMES[server]
    argument = f"--plugin_config={json.dumps(dict(settings or {}), separators=(',', ':'))}"
    arguments = f"      args:\n        - {json.dumps(argument)}\n" if settings else ""
    limit = '          nvidia.com/gpu: "1"\n' if gpu else ""
    named = "" if server == "triton" else "# Its name is the model's, and part of the address of each request.\n"
    return f"""\
# Upload the folder {folder} and put its address in the place of storageUri; then: kubectl apply -f kserve.yaml
{named}apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {json.dumps(label(job.name))}
spec:
  predictor:
    model:
      runtime: {runtime}
      modelFormat:
        name: {format_}
        version: "{version}"
      protocolVersion: v2
      storageUri: pvc://models/{folder}
{arguments}      resources:
        requests:
          cpu: "1"
          memory: 2Gi
        limits:
          cpu: "{max(1, job.instances) * max(1, job.threads)}"
          memory: 2Gi
{limit}"""


def label(name: str) -> str:
    """Return a model's name as Kubernetes takes one: lower-case letters, digits and hyphens."""
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-")
    return found if found[:1].isalpha() else f"model-{found}"[:63].rstrip("-")
