"""Which container of Triton runs an artifact: an engine needs the version of TensorRT that built it."""

from __future__ import annotations

from tlopt.deployment.job import Job

# Newest container known to hold a version of TensorRT. From NVIDIA's release notes of Triton and its Frameworks
# Support Matrix, https://docs.nvidia.com/deeplearning/frameworks/support-matrix, seen in November 2026.
_RELEASES = {
    "10.5.0": "24.10", "10.6.0": "24.11", "10.7.0": "24.12", "10.8.0": "25.02", "10.9.0": "25.04", "10.10.0": "25.05",
    "10.11.0": "25.06", "10.13.2": "25.08", "10.13.3": "25.10", "10.14.1": "25.11", "10.15.1": "26.02",
    "11.2.1": "26.08",
}  # fmt: skip
_NEWEST = "26.08"
_IMAGE = "nvcr.io/nvidia/tritonserver:{}-py3"


def container(job: Job) -> tuple[str, str]:
    """Return the container to run a deployment in, and a sentence if it has to be looked at; empty if not."""
    if job.kind != "tensorrt":
        return _IMAGE.format(_NEWEST), ""
    version = job.card.engine.version
    release = _RELEASES.get(".".join(version.split(".")[:3]))
    if release is not None:
        return _IMAGE.format(release), ""
    if all(one.card.engine.options.version_compatible for one in job.artifacts):
        return _IMAGE.format(
            _NEWEST
        ), f"The container's TensorRT must be {version} or a newer one of the same major number."
    return _IMAGE.format(_NEWEST), (
        f"The engine loads with TensorRT {version} only. NVIDIA's support matrix says which container has it; "
        f"{_NEWEST} may not."
    )
