"""How an engine is built: the settings of the build stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tlopt.settings import MOST_IN_BATCH, Setting

HardwareCompatibility = Literal["no", "same-capability", "ampere-plus"]

_TUNED = 8  # images, where nothing else is asked for
_BATCHES, _BUILDER, _PORTABILITY = "Batches", "Builder", "Portability"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an engine is built, whatever it is built for."""

    min_batch: Annotated[
        int,
        Setting(
            "Smallest batch that the engine accepts.", minimum=1, maximum=MOST_IN_BATCH, group=_BATCHES, common=True
        ),
    ] = 1
    opt_batch: Annotated[
        int | None,
        Setting(
            "Batch for which the engine is tuned. Default: 8, or the nearest batch that it accepts.",
            minimum=1,
            maximum=MOST_IN_BATCH,
            group=_BATCHES,
            common=True,
        ),
    ] = None
    max_batch: Annotated[
        int,
        Setting(
            "Largest batch that the engine accepts.", minimum=1, maximum=MOST_IN_BATCH, group=_BATCHES, common=True
        ),
    ] = 32
    workspace_mb: Annotated[
        int | None,
        Setting("GPU memory that one layer may use, in MiB. Default: all.", minimum=1, maximum=1 << 24, group=_BUILDER),
    ] = None
    optimization_level: Annotated[
        int,
        Setting(
            "Effort of the search for fast kernels. 0 builds quickest. 5 runs fastest.",
            minimum=0,
            maximum=5,
            group=_BUILDER,
        ),
    ] = 3
    timing_cache: Annotated[
        Path | None,
        Setting("Folder that keeps the timings of layers. Later builds are quicker with it.", group=_BUILDER),
    ] = None
    sparse: Annotated[bool, Setting("Use sparse kernels for weights with 2:4 sparsity.", group=_BUILDER)] = False
    refit: Annotated[bool, Setting("Allow the engine's weights to be replaced later.", group=_PORTABILITY)] = False
    strip_weights: Annotated[
        bool,
        Setting("Leave the weights out of the engine. Opening it reads them from the ONNX file.", group=_PORTABILITY),
    ] = False
    version_compatible: Annotated[
        bool, Setting("Allow newer versions of TensorRT to open the engine.", group=_PORTABILITY)
    ] = False
    hardware_compatible: Annotated[
        HardwareCompatibility,
        Setting(
            "Allow other GPUs to open the engine. They have the same compute capability, or are Ampere or newer.",
            group=_PORTABILITY,
        ),
    ] = "no"

    @property
    def tuned_batch(self) -> int:
        """The batch that the engine is tuned for."""
        if self.opt_batch is not None:
            return self.opt_batch
        return min(max(_TUNED, self.min_batch), self.max_batch)
