"""What a network takes and gives: the batches of an engine, checked against the network itself."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from tlopt.cards.details import Profile
from tlopt.engine.building.options import Options
from tlopt.engine.messages import Messages
from tlopt.errors import StageError

log = logging.getLogger(__name__)


def profile_of(
    api: Any, network: Any, options: Options, where: str, *, shape: tuple[int, ...], dtype: str, classifier: bool
) -> Profile:
    """Return the batch range, checked against the network's own input and outputs.

    Args:
        api: The library.
        network: The parsed network.
        options: How the engine is built.
        where: The network's file, for messages.
        shape: Of one input, without the batch axis.
        dtype: Of the input.
        classifier: Whether the network is one: it has one output then, of floats.

    Raises:
        StageError: The network does not take what the artifact's card says.
    """
    if network.num_inputs != 1 or (classifier and network.num_outputs != 1):
        raise StageError(
            f"{where} has {network.num_inputs} inputs and {network.num_outputs} outputs; a classifier has one of each."
        )
    tensor = network.get_input(0)
    found = tuple(tensor.shape)
    if len(found) != len(shape) + 1 or any(have not in (-1, want) for have, want in zip(found[1:], shape, strict=True)):
        raise StageError(
            f"The input {tensor.name!r} of {where} has the shape {found}; its card says (batch, "
            f"{', '.join(map(str, shape))}).",
            hint="Export the model again.",
        )
    wanted = {"float32": api.float32, "uint8": api.uint8}[dtype]
    if tensor.dtype != wanted:
        raise StageError(f"The input {tensor.name!r} of {where} is {tensor.dtype}; its card says {dtype}.")
    output = network.get_output(0)
    if classifier and output.dtype not in (api.float32, api.float16):
        raise StageError(
            f"The output {output.name!r} of {where} is {output.dtype}; logits are read as fp32 or fp16.",
            hint="Cast the output to fp32 in the model.",
        )
    profile = Profile(
        input=tensor.name,
        output=output.name,
        shape=shape,
        dtype=dtype,
        min_batch=options.min_batch,
        opt_batch=options.tuned_batch,
        max_batch=options.max_batch,
    )
    if found[0] > 0:
        log.warning("The batch is fixed in %s: the engine takes batches of %d only.", where, found[0])
        return replace(profile, min_batch=found[0], opt_batch=found[0], max_batch=found[0])
    return profile


def add_profile(builder: Any, config: Any, profile: Profile, messages: Messages) -> None:
    """Add the batch range to what the builder is told.

    Raises:
        StageError: TensorRT refuses it.
    """
    batches = (profile.min_batch, profile.opt_batch, profile.max_batch)
    ranges = builder.create_optimization_profile()
    ranges.set_shape(profile.input, *((batch, *profile.shape) for batch in batches))
    if config.add_optimization_profile(ranges) < 0:
        raise StageError(f"TensorRT refuses the batches {batches}: {messages.last()}")
