"""How much of a network is cut: the settings, and the widths that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tlopt.errors import StageError
from tlopt.settings import Setting

if TYPE_CHECKING:
    import torch

    from tlopt.pruning.channels import Network


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is removed."""

    ratio: Annotated[
        float, Setting("Share of the multiply-adds that is removed.", minimum=0, maximum=0.95, group="Cut", common=True)
    ] = 0.3
    speedup: Annotated[
        float | None,
        Setting(
            "Speed-up to reach with ONNX Runtime. It takes the place of --ratio.",
            minimum=1,
            group="Cut",
            common=True,
        ),
    ] = None
    speedup_batch: Annotated[
        tuple[int, ...],
        Setting("Batch sizes for which --speedup must hold.", minimum=1, group="Cut"),
    ] = (1, 32)
    criterion: Annotated[
        str, Setting("Criterion that ranks the channels.", plugins="criteria", group="Cut", common=True)
    ] = "logits"
    multiple: Annotated[int, Setting("Channel counts stay multiples of this number.", minimum=1, group="Cut")] = 8
    sparsity: Annotated[
        Literal["none", "2:4"],
        Setting(
            "2:4 also sets two of every four weights to zero. GPUs with sparse tensor cores skip those.", group="Cut"
        ),
    ] = "none"
    steps: Annotated[
        int, Setting("Number of cuts. Training follows each of them.", minimum=1, maximum=20, group="Cut")
    ] = 1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the widths must be: multiples, all groups cut alike or not, and the units of each that stay."""

    multiple: int
    even: bool
    least: Mapping[str, int]


def fewer(
    network: Network, scores: Mapping[str, torch.Tensor], budget: float, limits: Limits
) -> dict[str, torch.Tensor]:
    """Return which units stay, so that the multiply-adds fall to the budget.

    Raises:
        StageError: Nothing can be removed.
    """
    from tlopt.pruning import widths

    kept = widths.choose(
        network, scores, lambda layer, removed: layer.macs(removed), budget,
        multiple=limits.multiple, even=limits.even, least=limits.least,
    )  # fmt: skip
    if not kept and network.macs() > budget:
        raise StageError(
            f"No group of channels is wide enough to be cut to a smaller multiple of {limits.multiple}.",
            hint="Try a smaller --multiple.",
        )
    return kept
