"""A stage is one function from a source to a new artifact; this wrapper is what all of them share."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlopt import settings
from tlopt.artifact import Artifact, seal, sha256
from tlopt.cards.card import CARD_NAME, Card, Step, plain
from tlopt.cards.details import EngineDetails
from tlopt.environment import computed_on, versions
from tlopt.errors import ArtifactError, OutputExistsError, SettingError, wrapping
from tlopt.images import ImageFolder, intrusion, scan
from tlopt.images.mistaken import no_images
from tlopt.process.waiting import sharing
from tlopt.publishing import check_place, draft
from tlopt.reading.files import IrregularFileError, expect_regular

log = logging.getLogger(__name__)

_SAVED_MODEL = "saved_model.pb"  # in every SavedModel


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A single file that a stage reads, or a folder that another program writes and reads as one."""

    path: Path

    @property
    def digest(self) -> str:
        """The sha256 of its content; that of a folder covers the names and the contents of all its files."""
        if not self.path.is_dir():
            return sha256(self.path)
        files = sorted(file for file in self.path.rglob("*") if file.is_file())
        lines = [f"{sha256(file)} {file.relative_to(self.path).as_posix()}\n" for file in files]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


Source = Artifact | ImageFolder | SourceFile | None


class Stage:
    """A stage, callable as ``stage(source, out, *, force=False, **settings) -> Artifact``.

    Attributes:
        name: Its verb ("prune").
        reads: The kinds it takes: artifact kinds, "images" for a folder of images, "file" for a
            single file, "saved model" for a folder of TensorFlow's, "nothing" if it may go without a source.
        writes: The kind it makes; empty if the card it returns says so.
        shared: Whether several processes of torchrun share its work.
        body: The undecorated function.
    """

    def __init__(
        self, body: Callable[..., Card], *, reads: tuple[str, ...], writes: str, moved: Mapping[str, str], shared: bool
    ) -> None:
        self.body = body
        self.body.__dict__["moved"] = moved
        self.name = body.__name__.removesuffix("_model").lstrip("_")
        self.reads = reads
        self.writes = writes
        self.shared = shared
        functools.update_wrapper(self, body)

    @property
    def __signature__(self) -> inspect.Signature:
        """What callers may give: the source, the output, each setting, and `force`."""
        signature = settings.flat_signature(self.body)
        force = inspect.Parameter("force", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
        return signature.replace(parameters=[*signature.parameters.values(), force], return_annotation=Artifact)

    def __call__(
        self, source: str | Path | Artifact | ImageFolder | None, out: str | Path, *, force: bool = False, **given: Any
    ) -> Artifact:
        """Run the stage and return the artifact it made.

        Raises:
            SettingError: A setting is unknown or does not fit.
            ArtifactError: The source is damaged or of a kind that the stage does not read.
            ImagesError: A folder of images cannot be used.
            OutputExistsError: `out` exists and `force` is not set.
            StageError: A library that the stage relies on failed.
        """
        chosen = settings.check(self.body, given)
        check_place(out, force=force, reads=_paths(source, chosen))
        opened = open_source(self.name, source, self.reads)
        settings.check_kind(self.body, chosen, kind_of(opened))
        intrusion.refuse(out, _paths(opened, chosen))
        log.info("%s: %s -> %s", self.name, getattr(opened, "path", "-"), out)
        with draft(out, force=force, reads=_paths(opened, chosen), shared=self.shared) as made:
            started = time.perf_counter()
            with wrapping(self.name), sharing():
                card = self.body(opened, made, **settings.arguments(self.body, chosen))
            step = Step(
                stage=self.name,
                settings=settings.recorded(self.body, chosen),
                source=opened.digest if opened is not None else "",
                seconds=round(time.perf_counter() - started, 3),
                versions=versions(),
                device=(card.engine.device if isinstance(card.details, EngineDetails) else "") or computed_on(),
            )
            before = opened.card.lineage if isinstance(opened, Artifact) else ()
            seal(made.folder, replace(card, kind=self.writes or card.kind, lineage=(*before, step)))
        return Artifact.load(out)

    def expect_own(self, place: Path) -> None:
        """Check that an artifact is of this stage, before it is replaced though nobody named it.

        Raises:
            OutputExistsError: It is of another one, or damaged.
        """
        if not (place / CARD_NAME).exists():
            return
        try:
            lineage = Artifact.load(place).card.lineage
        except ArtifactError:
            lineage = ()
        if not lineage or lineage[-1].stage != self.name:
            raise OutputExistsError(
                f"{place} is in the way, and was not made by {self.name}.", hint="Move it, or choose another --out."
            )

    def standing(self, source: Artifact, out: Path, **given: Any) -> Artifact | None:
        """Return what stands at `out` if its lineage says that this stage made it of the source with these settings."""
        chosen = settings.check(self.body, given)
        # What a file held then is in no lineage.
        if any(isinstance(value, Path) for value in chosen.values()) or not (out / CARD_NAME).exists():
            return None
        try:
            found = Artifact.load(out)
        except ArtifactError:
            return None
        wanted = (self.name, source.digest, plain(settings.recorded(self.body, chosen)))
        last = found.card.lineage[-1] if found.card.lineage else None
        if last is None or (last.stage, last.source, plain(last.settings)) != wanted:
            return None
        return found if last.versions.get("tlopt") == versions().get("tlopt") else None


def open_source(verb: str, source: str | Path | Artifact | ImageFolder | None, reads: tuple[str, ...]) -> Source:
    """Open what a verb works on.

    Args:
        verb: Its name, for errors.
        source: The source.
        reads: The kinds that it takes, as those of a `Stage`.

    Raises:
        SettingError: There is none, and the verb needs one.
        ArtifactError: It is damaged, or of a kind that the verb does not read.
        ImagesError: It is a folder of images that cannot be used, or no folder of images.
    """
    if source is None and "nothing" not in reads:
        raise SettingError(f"{verb} needs a source: {' or '.join(reads)}.")
    if source is None or isinstance(source, ImageFolder):
        return source
    kinds = [kind for kind in reads if kind not in ("images", "file", "saved model", "nothing")]
    if "file" in reads and not isinstance(source, Artifact):
        marker = Path(source, _SAVED_MODEL)
        try:
            expect_regular(marker if "saved model" in reads and marker.exists() else source)
        except IrregularFileError as error:
            raise ArtifactError(error.message) from error
        except OSError as error:
            raise ArtifactError(f"There is no file at {source}.") from error
        return SourceFile(path=Path(source))
    if isinstance(source, Artifact) or (Path(source) / CARD_NAME).exists():
        if not kinds:
            raise no_images(source.path if isinstance(source, Artifact) else Path(source), "an artifact")
        return Artifact.load(source).expect(*kinds)
    if "images" in reads:
        return scan(source)
    return Artifact.load(source)


def kind_of(source: Source) -> str:
    """Return the kind of what a stage works on, as rules of its settings take it."""
    if isinstance(source, Artifact):
        return source.card.kind
    return "nothing" if source is None else "images" if isinstance(source, ImageFolder) else "file"


def _paths(source: str | Path | Source, chosen: Mapping[str, Any]) -> Iterator[str | Path]:
    """Yield all that a stage reads: its source, the images of an artifact, and the files that settings name."""
    if isinstance(source, ImageFolder):
        yield from source.places()
    elif isinstance(source, Artifact):
        yield source.path
        if source.card.images is not None:
            yield source.card.images.path
    elif isinstance(source, SourceFile):
        yield source.path
    elif source is not None:
        yield source
    yield from (value for name, value in chosen.items() if isinstance(value, Path) and name != "cache_dir")


def stage(
    *, reads: str | tuple[str, ...], writes: str, moved: Mapping[str, str] | None = None, shared: bool = False
) -> Callable[[Callable[..., Card]], Stage]:
    """Make a stage of a function ``(source, out, *, settings…) -> Card``.

    The function writes its payload into `out`, a `Draft`, and returns the card of what it wrote.
    Kind check, settings check, timing, hashing, lineage, atomic write and the wrapping of
    third-party failures are done around it.

    Args:
        reads: The kinds it takes.
        writes: The kind it makes.
        moved: Settings that it had once -> the hint that says where they are now.
        shared: Whether several processes of torchrun share its work.
    """
    kinds = (reads,) if isinstance(reads, str) else reads
    return lambda body: Stage(body, reads=kinds, writes=writes, moved=moved or {}, shared=shared)
