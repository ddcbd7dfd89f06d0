"""The file deploy.json: what a deployment is, what it was made of, and how it was checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tlopt.artifact import Artifact, sha256
from tlopt.cards.card import plain
from tlopt.deployment.job import Checks, Input, Job, Written
from tlopt.environment import versions
from tlopt.errors import ArtifactError
from tlopt.preprocess import Preprocess
from tlopt.publishing import write_whole
from tlopt.publishing.marks import DEPLOYMENT, DEPLOYMENT_FILE
from tlopt.reading import files
from tlopt.reading.schema import Positive, SchemaError, Sha256, Text, convert, parse_json

_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What an engine needs to run: the kind and version of TensorRT, CUDA, and GPUs by compute capability."""

    flavour: str
    version: str
    cuda: str
    targets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """An artifact that was deployed.

    Args:
        digest: Identity of what it computes.
        kind: Its kind.
        precision: Its number format.
        engine: What an engine needs to run; None for a graph.
    """

    digest: Sha256
    kind: str
    precision: str
    engine: Engine | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What deploy.json says.

    Args:
        schema: Version of the file.
        what: Says that tlopt made the folder.
        tlopt: Version of tlopt.
        target: What it was made for.
        name: Name of the model.
        model: Where the architecture comes from.
        backend: What runs it.
        input: What a request holds.
        max_batch: Most images of a run.
        max_delay_ms: How long a request may wait for others, None if that was left to the target.
        instances: How many runs may go on at once; 0 if that was left to the target.
        threads: Processor threads of each instance; 0 if that was left to the server.
        answers: What the numbers of the output mean.
        classes: Number of classes.
        preprocess: How an image file becomes the input of the graph.
        artifacts: What was deployed.
        container: The container image to run it in; empty if there is none.
        how: Shell commands that use it.
        notes: What else there is to say.
        check: How its answers were compared with the artifact's.
        files: Every other file in the folder -> its sha256.
    """

    schema: int = _SCHEMA
    what: str
    tlopt: str
    target: str
    name: Text
    model: str
    backend: str
    input: Input
    max_batch: Positive
    max_delay_ms: float | None
    instances: int
    threads: int
    answers: str
    classes: Positive
    preprocess: Preprocess
    artifacts: tuple[Origin, ...]
    container: str
    how: tuple[str, ...]
    notes: tuple[str, ...]
    check: Checks
    files: Mapping[str, Sha256]


def write(folder: Path, job: Job, written: Written, check: Checks) -> Manifest:
    """Write deploy.json into a folder that has everything else; return what it says."""
    job = replace(job, **written.chosen)
    made = Manifest(
        what=DEPLOYMENT,
        tlopt=versions().get("tlopt", ""),
        target=job.target,
        name=job.name,
        model=job.card.model,
        backend=job.backend,
        input=job.input,
        max_batch=job.max_batch,
        max_delay_ms=job.max_delay_ms,
        instances=job.instances,
        threads=job.threads,
        answers=job.answers,
        classes=len(job.classes),
        preprocess=job.served,
        artifacts=tuple(map(_origin, job.artifacts)),
        container=written.container,
        how=written.how,
        notes=written.notes,
        check=check,
        files={str(f.relative_to(folder)): sha256(f) for f in sorted(folder.rglob("*")) if f.is_file()},
    )
    write_whole(folder / DEPLOYMENT_FILE, json.dumps(plain(made), indent=2, allow_nan=False) + "\n")
    return made


def read(folder: str | Path) -> Manifest:
    """Read the deploy.json of a folder.

    Raises:
        ArtifactError: The folder is no deployment, or its deploy.json is damaged or of a newer tlopt.
    """
    file = Path(folder) / DEPLOYMENT_FILE
    hint = "tlopt deploy makes one of an artifact."
    try:
        raw = parse_json(files.read_text(file))
        if not isinstance(raw, dict) or raw.get("what") != DEPLOYMENT:
            raise SchemaError(f"it does not say that it is {DEPLOYMENT}")
        if raw.get("schema") != _SCHEMA:
            raise SchemaError(f"it has schema {raw.get('schema')}; this version of tlopt reads {_SCHEMA}")
        found: Manifest = convert(raw, Manifest)
    except OSError as error:
        raise ArtifactError(f"{folder} is no deployment: it has no readable {file.name}.", hint=hint) from error
    except ValueError as error:
        raise ArtifactError(f"{file} cannot be used: {error}.", hint=hint) from error
    return found


def _origin(artifact: Artifact) -> Origin:
    card = artifact.card
    engine = None
    if card.kind == "tensorrt":
        details = card.engine
        engine = Engine(flavour=details.flavour, version=details.version, cuda=details.cuda, targets=details.targets)
    return Origin(digest=artifact.digest, kind=card.kind, precision=card.precision, engine=engine)
