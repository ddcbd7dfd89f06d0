"""What a setting means, and which fields of a record are settings."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlopt import registry
from tlopt.publishing import Kind


@dataclass(frozen=True)
class Setting:
    """What a setting means and which values it takes.

    Args:
        help: One sentence; the help text of the option.
        minimum: Smallest value allowed, inclusive.
        maximum: Largest value allowed, inclusive.
        plugins: Plugin folder whose file names are the choices ("quantizers").
        short: One-letter option name ("o").
        metavar: Placeholder in help texts.
        group: Heading under which the help lists it ("Augmentation"); empty for the first one.
        common: Whether it is one of the few that most people set; the help shows those first.
        output: What the function writes, if it names a file to write.
        asks: Whether the function only answers a question if it is given, and makes nothing.
        sets: Value of this setting -> other settings and the values that they take where none is given.
        idles: Value of this setting -> other settings that have no effect then; they are refused, and no card has them.
        passing: Whether it names what is gone when the work is over: no card has it.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    plugins: str = ""
    short: str = ""
    metavar: str = ""
    group: str = ""
    common: bool = False
    output: Kind | None = None
    asks: bool = False
    sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    idles: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    passing: bool = False


@dataclass(frozen=True)
class Without:
    """Names of a record's fields that are no settings of this function: they keep their defaults.

    ``training: Annotated[Hyperparameters, Without("compile")] = Hyperparameters()``
    """

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


@dataclass(frozen=True)
class Only:
    """Names of a record's fields that are settings of this function; the others keep their defaults."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One setting of a function, resolved from its signature.

    Attributes:
        name: What the user calls it.
        item: Element type of a tuple setting, None for any other kind.
        attribute: Its name in the signature or the record.
        record: The keyword-only parameter whose record holds it; empty if the function takes it itself.
    """

    name: str
    kind: type
    default: Any
    setting: Setting
    choices: tuple[str, ...]
    optional: bool
    item: type | None
    attribute: str
    record: str = ""

    @property
    def group(self) -> str:
        """Heading under which the help lists it; empty for the first one."""
        return self.setting.group

    @property
    def common(self) -> bool:
        """Whether it is one of the few that most people set."""
        return self.setting.common

    @property
    def required(self) -> bool:
        """Whether the caller must give a value."""
        return self.default is inspect.Parameter.empty

    @property
    def option(self) -> str:
        """Name on the command line."""
        return self.name.replace("_", "-")

    @property
    def shown(self) -> str:
        """Its name in a sentence: in quotes if it reads as a word of the sentence, as "for" does."""
        return repr(self.name) if keyword.iskeyword(self.name) else self.name

    @property
    def known(self) -> tuple[str, ...]:
        """The names this setting chooses from, or none if it is not a choice."""
        return registry.names(self.setting.plugins) if self.setting.plugins else self.choices


def range_text(setting: Setting) -> str:
    """Return a setting's range in words, empty if it has none."""
    low, high = (None if limit is None else number_text(limit) for limit in (setting.minimum, setting.maximum))
    if low is not None and high is not None:
        return f"between {low} and {high}"
    if low is not None:
        return f"at least {low}"
    if high is not None:
        return f"at most {high}"
    return ""


def number_text(number: float) -> str:
    """Return a number as it is shown in messages: whole ones with all of their digits."""
    return str(number) if isinstance(number, int) else f"{number:g}"
