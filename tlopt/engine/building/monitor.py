"""The builder's phases as a progress bar: on a GPU a build takes minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tlopt.progress import Bar, display


class _Phases:
    """The bars of the phases under way.

    The builder calls back from threads of its own, where the caller's display is not set; it is
    taken when this is made. What is raised in a callback, Ctrl-C above all, must not fly through
    the library: it is kept in `stopped`.
    """

    def __init__(self) -> None:
        self.stopped: list[BaseException] = []
        self._show = display.get()
        self._bars: dict[str, tuple[ExitStack, Bar]] = {}

    def begin(self, name: str, steps: int) -> None:
        def action() -> None:
            stack = ExitStack()
            self._bars[name] = (stack, stack.enter_context(self._show(name.lower(), steps)))

        self._safely(action)

    def step(self, name: str) -> None:
        if name in self._bars:
            self._safely(self._bars[name][1].advance)

    def end(self, name: str) -> None:
        if name in self._bars:
            self._safely(self._bars.pop(name)[0].close)

    def close(self) -> None:
        for name in tuple(self._bars):
            self.end(name)

    def _safely(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 -- raised again once the library has returned
            self.stopped.append(error)


@contextmanager
def monitored(api: Any, config: Any) -> Iterator[None]:
    """Show the phases of a build inside the block, and let Ctrl-C stop it."""
    phases = _Phases()

    class Monitor(api.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                phases.begin(name, steps)

        def step_complete(self, name: str, step: int) -> bool:  # noqa: ARG002 -- the library names it
            phases.step(name)
            return not phases.stopped

        def phase_finish(self, name: str) -> None:
            phases.end(name)

    monitor = Monitor()  # the library does not keep it alive
    config.progress_monitor = monitor
    try:
        yield
    finally:
        config.progress_monitor = None
        phases.close()
    if phases.stopped:
        raise phases.stopped[0]
