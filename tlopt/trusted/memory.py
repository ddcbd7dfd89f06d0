"""The models that a person named, kept in a file that is private to that person."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from tlopt.reading import files
from tlopt.trusted.places import Place, locate

log = logging.getLogger(__name__)

_MOST = 200  # models remembered


def _file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".config") / "tlopt" / "trusted.json"


def remembered(model: str) -> list[Place]:
    """Return where the module of a model was when a person named it, the latest first."""
    return [place for name, place in reversed(entries()) if name == model]


def entries() -> list[tuple[str, Place]]:
    """Return the models and where their modules were, the latest last."""
    try:
        file = _file()
        with files.open_regular(file, limit=files.TEXT_LIMIT) as opened:
            found = os.fstat(opened.fileno())
            if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                log.warning("%s is ignored: another user may have written it", file)
                return []
            raw = json.loads(opened.read(files.TEXT_LIMIT))
        return [(str(entry.pop("model")), Place(**{key: str(value) for key, value in entry.items()})) for entry in raw]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, RecursionError) as error:
        log.warning("The list of trusted models cannot be read. tlopt starts a new one: %s", error)
        return []


def remember(model: str, folder: str) -> None:
    """Keep that a person named a model, and what its module is now.

    Args:
        model: ``module:function``, perhaps with options.
        folder: The folder to search for its module, empty for the usual search.
    """
    if place := locate(model.partition(":")[0], [folder] if folder else None):
        keep(model, place)


def keep(model: str, place: Place) -> None:
    """Keep a name and where what it names lies."""
    before = entries()
    if (model, place) in before:
        return
    kept = [(name, old) for name, old in before if (name, old.file) != (model, place.file)]
    content = [{"model": name, **asdict(old)} for name, old in [*kept, (model, place)][-_MOST:]]
    try:
        file = Path(os.path.realpath(_file()))  # a link of the user's stays one
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # of mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                json.dump(content, opened, indent=1)
            Path(scratch).replace(file)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        log.info("the model %s is not remembered: %s", model, error)
