"""PyTorch's tensors in front of an engine: whose streams wait for each other. No GPU is needed to see that."""

import numpy as np
import torch

from tlopt.engine.running import tensors


class StreamDouble:
    """Test double of `torch.cuda.Stream`: it writes down what it waits for."""

    def __init__(self, name, waits):
        self.name, self.waits = name, waits

    def wait_stream(self, other):
        self.waits.append((self.name, other.name))


def test_the_engine_and_the_tensors_own_gpu_wait_for_each_other_whichever_gpu_is_current(monkeypatch):
    waits, inputs = [], torch.zeros(2, 3)
    current = {None: "of the current GPU", inputs.device: "of the tensor's GPU"}
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: StreamDouble(current[device], waits))
    monkeypatch.setattr(
        torch.cuda,
        "ExternalStream",
        lambda handle, device=None: StreamDouble(f"{handle} {'here' if device == inputs.device else '?'}", waits),
    )
    with tensors.answered(inputs, 4, np.float16, 7) as logits:
        assert waits == [("7 here", "of the tensor's GPU")]
    assert waits[1:] == [("of the tensor's GPU", "7 here")]
    assert (logits.shape, logits.dtype) == ((2, 4), torch.float16)
