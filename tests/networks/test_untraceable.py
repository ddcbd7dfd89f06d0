"""Networks that torch can make no graph of."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from tlopt.errors import StageError
from tlopt.networks.tracing import trace


class Deciding(nn.Module):
    def __init__(self, by: str) -> None:
        super().__init__()
        self.by, self.conv = by, nn.Conv2d(3, 4, 3)

    def forward(self, images):
        rows = self.conv(images).mean((2, 3))
        if self.by == "sum" and rows.sum() > 0:
            return rows * 2
        if self.by == "item":
            return rows * (1 if rows.mean().item() > 0 else 2)
        while self.by == "loop" and rows.max() > 1:
            rows = rows / 2
        return rows


@pytest.mark.parametrize(
    ("by", "line"), [("sum", "rows.sum"), ("item", r"rows.mean\(\).item"), ("loop", r"rows.max\(\) > 1")]
)
def test_a_decision_by_values_is_told_with_its_line(by, line, capfd):
    with pytest.raises(
        StageError, match=rf"decides by the values .*test_untraceable\.py, in forward: .*{line}"
    ) as found:
        trace(Deciding(by), 16, 18)
    assert "torch.where" in found.value.hint
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("torch.fx.experimental.symbolic_shapes").disabled


class Failing(nn.Module):
    def forward(self, images):
        return torch.linalg.lstsq(images.mean(1), images.mean(1)).solution.mean(2) + images.mean(1).numpy().mean()


def test_any_other_failure_is_told_in_one_line(capfd):
    with pytest.raises(StageError, match="torch can make no graph of the network") as found:
        trace(Failing(), 16, 18)
    assert "\n" not in found.value.message
    assert "\x1b" not in found.value.message
    assert capfd.readouterr() == ("", "")
