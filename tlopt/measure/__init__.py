"""What is measured on artifacts: accuracy, parity, speed. Every function here reads and changes nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from tlopt import settings

P = ParamSpec("P")
R = TypeVar("R")


def measurement(body: Callable[P, R]) -> Callable[P, R]:
    """Check the settings of every call of a function as `tlopt.settings` declares them."""
    defaults = {parameter.attribute: parameter.default for parameter in settings.parameters(body)}

    @functools.wraps(body)
    def checked(*args: P.args, **given: P.kwargs) -> R:
        chosen = {name: value for name, value in given.items() if name in defaults and value != defaults[name]}
        others: dict[str, Any] = {name: value for name, value in given.items() if name not in defaults}
        return body(*args, **others, **settings.arguments(body, settings.check(body, chosen)))

    return checked
