"""Networks whose weights do not all take part in the logits, trained by several processes."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn

from tlopt.training.parallel import parallel

CPU = torch.device("cpu")


class Auxiliary(nn.Module):
    """Answers with more than logits, and has a layer that nothing calls."""

    def __init__(self, *, uncalled: bool, second: bool) -> None:
        super().__init__()
        self.body, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)
        self.other = nn.Linear(8, 3) if second else None
        self.uncalled = nn.Linear(2, 2) if uncalled else None

    def forward(self, images):
        rows = self.norm(self.body(images)).relu().mean((2, 3))
        return (self.fc(rows), self.other(rows)) if self.other is not None and self.training else self.fc(rows)


@pytest.fixture
def group(tmp_path):
    """A group of this process alone; gradients are waited for as in a larger one."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*find_unused_parameters")
@pytest.mark.parametrize(("uncalled", "second"), [(True, False), (False, True), (True, True), (False, False)])
@pytest.mark.usefixtures("group")
def test_weights_without_a_gradient_stop_no_training(uncalled, second):
    torch.manual_seed(0)
    model = Auxiliary(uncalled=uncalled, second=second)
    statistics = model.norm.running_mean.clone()
    called = parallel(model, model, CPU, 8)
    assert torch.equal(model.norm.running_mean, statistics)
    assert called.find_unused_parameters == (uncalled or second)
    images = torch.randn(4, 3, 8, 8)
    for _ in range(3):
        model.zero_grad(set_to_none=True)
        called(images).square().mean().backward()
    alone = Auxiliary(uncalled=uncalled, second=second)
    alone.load_state_dict(model.state_dict())
    wanted = alone(images)
    (wanted[0] if second else wanted).square().mean().backward()
    for name, weight in alone.named_parameters():
        found = model.get_parameter(name).grad
        assert (found is None) == (weight.grad is None)
        if found is not None:
            torch.testing.assert_close(found, weight.grad)
