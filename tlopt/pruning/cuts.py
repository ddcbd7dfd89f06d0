"""How much of a network is cut: the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tlopt.settings import MOST_IN_BATCH, Setting

if TYPE_CHECKING:
    import torch

    from tlopt.pruning.channels import Network
    from tlopt.pruning.widths import Cost


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
        Setting("Batch sizes for which --speedup must hold.", minimum=1, maximum=MOST_IN_BATCH, group="Cut"),
    ] = (1, 32)
    criterion: Annotated[
        str, Setting("Criterion that ranks the channels.", plugins="criteria", group="Cut", common=True)
    ] = "logits"
    blocks: Annotated[
        Literal["keep", "auto"],
        Setting(
            "auto also removes whole residual blocks, as many as short trainings show to be worth it.",
            group="Cut",
            common=True,
        ),
    ] = "keep"
    multiple: Annotated[
        int, Setting("Channel counts stay multiples of this number.", minimum=1, maximum=65_536, group="Cut")
    ] = 8
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
    """What the widths must be.

    Args:
        multiple: Channels of each group stay a multiple of this.
        even: All groups are cut alike.
        least: Group name -> units that always stay (`tlopt.pruning.widths.floors`).
    """

    multiple: int
    even: bool
    least: Mapping[str, int]

    def choose(
        self, network: Network, scores: Mapping[str, torch.Tensor], cost: Cost, budget: float
    ) -> dict[str, torch.Tensor]:
        """Return for each group which of its units stay, so that the cost falls to the budget.

        See `tlopt.pruning.widths.choose`.
        """
        from tlopt.pruning import widths

        # Without a block, channels may go that were tied to others before.
        least = {**widths.floors(network), **self.least}
        return widths.choose(network, scores, cost, budget, multiple=self.multiple, even=self.even, least=least)
