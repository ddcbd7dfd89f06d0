"""What is measured on artifacts: accuracy, parity, speed. Every function here reads and changes nothing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tlopt import settings

P = ParamSpec("P")
R = TypeVar("R")


def measurement(body: Callable[P, R]) -> Callable[P, R]:
    """Check the settings of every call of a function as `tlopt.settings` declares them."""
    known = {parameter.name for parameter in settings.parameters(body)}
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(body).parameters.items()
        if name.rstrip("_") in known
    }

    @functools.wraps(body)
    def checked(*args: P.args, **given: P.kwargs) -> R:
        chosen = {name: value for name, value in given.items() if name in defaults and value != defaults[name]}
        given.update(settings.check(body, chosen))
        return body(*args, **given)

    return checked
