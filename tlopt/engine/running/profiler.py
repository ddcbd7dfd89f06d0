"""The time of each layer of an engine, as the library itself reports it."""

from __future__ import annotations

from typing import Any


class LayerTimes:
    """Milliseconds by layer, summed over runs, in the order in which the layers ran.

    Attributes:
        profiler: What an execution context takes as its `profiler`. The context does not keep it alive.
        taken: Name of a layer -> milliseconds of all runs so far.
    """

    def __init__(self, api: Any) -> None:
        taken: dict[str, float] = {}

        class Profiler(api.IProfiler):  # type: ignore[misc]
            def __init__(self) -> None:
                api.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                taken[layer_name] = taken.get(layer_name, 0.0) + float(ms)

        self.profiler = Profiler()
        self.taken = taken
