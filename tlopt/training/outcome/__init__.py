"""What a training run says at its end: metrics, calibrated confidence, pictures, records."""

from __future__ import annotations

from tlopt import registry


def expect_tensorboard(tensorboard: bool) -> None:
    """Refuse TensorBoard's events where their library is missing: told before the training rather than after it.

    Raises:
        MissingLibraryError: They are wanted, and it is.
    """
    if tensorboard:
        registry.require("tensorboard")
