"""The verb deploy: from an artifact to a folder that answers requests elsewhere, proved to answer as it does."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

from tlopt import registry
from tlopt.artifact import Artifact
from tlopt.deployment import manifest, requests, vendored
from tlopt.deployment.job import Checks, Input, Job, Serving, Written
from tlopt.errors import MissingLibraryError, wrapping
from tlopt.images import intrusion
from tlopt.publishing import check_place, draft
from tlopt.reports import Report
from tlopt.settings import Setting, flat

log = logging.getLogger(__name__)


class Target(Protocol):
    """What a file in targets defines; see the room."""

    BACKENDS: Mapping[str, tuple[str, ...]]
    INPUTS: tuple[Input, ...]
    USES: frozenset[str]
    SEVERAL: bool

    def examine(self, job: Job) -> None:
        """Refuse what it cannot do."""

    def write(self, job: Job, folder: Path) -> Written:
        """Write the files."""

    def problem(self, job: Job) -> str:
        """Return why they cannot be checked here; empty if they can."""

    def check(self, job: Job, folder: Path) -> Checks:
        """Prove that they answer as the artifact does."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A folder that was made.

    Args:
        path: The folder.
        manifest: What its deploy.json says.
    """

    path: Path
    manifest: manifest.Manifest

    def to_report(self) -> Report:
        """Return what there is and how it was checked."""
        said, check = self.manifest, self.manifest.check
        row: dict[str, Any] = {"checked_by": check.by, "images": check.images}
        if check.difference is not None:
            row |= {"largest_difference": check.difference, "agreement": check.agreement}
        notes = [*check.proves, *check.leaves_open, *said.notes]
        if check.not_done:
            notes.insert(0, f"Not checked: {check.not_done}")
        if said.container:
            notes.append(f"Container: {said.container}")
        if said.how:
            notes.append(f"To use it, in {self.path}:")
            notes += [f"    {part}" for line in said.how for part in _continued(line)]
        return Report(
            title=f"{said.name}: {said.target}, {said.backend}, takes {_TAKES[said.input]}",
            rows=() if check.not_done else (row,),
            notes=tuple(notes),
            details={"deployment": {"path": str(self.path)}},
        )


def _continued(line: str) -> list[str]:
    """Return a shell command in lines that a terminal shows whole, and that can be typed as they are."""
    parts = textwrap.wrap(line, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [*(f"{part} \\" for part in parts[:-1]), parts[-1]]


_WIDTH = 72  # of 80, less the indentation and the backslash
_TAKES = {"image": "image files", "pixels": "pixels of the network's size"}


@flat
def deploy(
    artifacts: Sequence[str | Path | Artifact] | str | Path | Artifact,
    out: str | Path,
    *,
    for_: Annotated[str, Setting("What the deployment is made for.", plugins="targets", common=True)],
    input_: Annotated[
        Input | None,
        Setting(
            "What a request holds. image is a file of any size. pixels are RGB bytes of the network's size. "
            "Default: image where the target decodes images.",
            common=True,
        ),
    ] = None,
    name: Annotated[str, Setting("Name of the model. Default: that of the artifact's folder.", common=True)] = "",
    backend: Annotated[
        str, Setting("Runtime that runs the network: onnxruntime, openvino or tensorrt. Default: that of the artifact.")
    ] = "",
    serving: Serving = Serving(),  # noqa: B008 - it is frozen
    check: Annotated[
        bool | None, Setting("Compare the answers of the deployment with the artifact's. Default: if this machine can.")
    ] = None,
    force: bool = False,
) -> Deployment:
    """Write all that runs an artifact elsewhere, and check it.

    The folder holds the network, its class names and tlopt's own preprocessing. Nothing in it needs
    tlopt or torch. deploy.json says what it is, what it was made of and how it was checked.

    The check runs what was written on a few images and compares the answers with the artifact's. The
    folder is not made if they differ.

    Several engines of one network, for different GPUs, become one model on a server that chooses.

    From Python:
        artifacts: An onnx or tensorrt artifact, or several engines of one network.
        out: Folder to make.
        force: Replace an older deployment at `out`.

    Raises:
        SettingError: A setting does not fit the target or the artifact.
        ArtifactError: An artifact is damaged or no classifier, or the target does not serve its kind or its backend.
        MissingLibraryError: `check` or `server` is set, and what checks it is not installed.
        CheckError: What was written answers otherwise than the artifact.
        OutputExistsError: `out` exists and `force` is not set, or it is no deployment.
    """
    target = cast(Target, registry.load("targets", for_))
    given = [artifacts] if isinstance(artifacts, str | Path | Artifact) else list(artifacts)
    requests.refuse_unused(for_, target.USES, serving)
    reads = [one.path if isinstance(one, Artifact) else one for one in given]
    check_place(out, force=force, reads=reads, makes="deployment")
    loaded = tuple(Artifact.load(artifact).expect_classifier("deploy") for artifact in given)
    intrusion.refuse(out, [one.card.images.path for one in loaded if one.card.images is not None])
    runtime = requests.backend(loaded, for_, target.BACKENDS, backend)
    requests.refuse_several(loaded, for_, several=target.SEVERAL)
    job = Job(
        artifacts=loaded,
        target=for_,
        name=requests.name(name, loaded[0]),
        backend=runtime,
        input=requests.input_kind(loaded[0], for_, target.INPUTS, input_),
        max_batch=requests.max_batch(loaded, serving.max_batch),
        max_delay_ms=serving.max_delay_ms,
        instances=serving.instances,
        threads=serving.threads,
        tune_latency_ms=serving.tune_latency_ms,
        server=serving.server,
    )
    vendored.check_labels(job)
    target.examine(job)
    reason = _reason(target, job, check)
    with draft(out, force=force, reads=reads, makes="deployment") as folder, wrapping("deploy"):
        made = _made(target, job, folder.folder, reason)
    return Deployment(path=Path(out), manifest=made)


def _reason(target: Target, job: Job, check: bool | None) -> str:
    """Return why there will be no check; empty if there will be one.

    Raises:
        MissingLibraryError: It was asked for, or a server for it was named, and it cannot be done.
    """
    if check is False:
        return "it was switched off with --no-check."
    reason = target.problem(job)
    if reason and (check or job.server is not None):
        asked = "--check" if check else "--server"
        raise MissingLibraryError(f"What is deployed cannot be checked here: {reason}", hint=f"Leave {asked} out.")
    if reason:
        log.warning("Not checked: %s", reason)
    return reason


def _made(target: Target, job: Job, folder: Path, reason: str) -> manifest.Manifest:
    written = target.write(job, folder)
    before = _files(folder)
    checks = Checks(not_done=reason) if reason else target.check(job, folder)
    assert _files(folder) == before, "a check has written into the deployment"
    return manifest.write(folder, job, written, checks)


def _files(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}
