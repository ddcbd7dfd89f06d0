"""What every output of a network that is no classifier must be, whatever ran it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlopt.artifact import Artifact
from tlopt.backends._logits import check_logits, not_finite
from tlopt.errors import ArtifactError
from tlopt.outputs import Answer


def check_outputs(answers: list[Answer], artifact: Artifact, backend: str) -> list[Answer]:
    """Return every output of each image as it is if all numbers are finite, and all outputs of the card are there.

    Args:
        answers: What the network answered.
        artifact: What ran.
        backend: What ran it, for the error's message.

    Raises:
        ArtifactError: The network has other outputs than its card says.
        NotFiniteError: Some numbers are not finite.
    """
    wanted = artifact.card.outputs
    for answer in answers:
        ranks = [(values.ndim, len(output.shape)) for values, output in zip(answer, wanted, strict=False)]
        if len(answer) != len(wanted) or any(found != said for found, said in ranks):
            raise ArtifactError(
                f"{artifact.path} answers with the shapes {[values.shape for values in answer]}; its card has the "
                f"outputs {', '.join(f'{output.name} {output.shape}' for output in wanted)}.",
                hint="Make the artifact again.",
            )
    if wrong := sum(any(_broken(values) for values in answer) for answer in answers):
        raise not_finite(artifact, backend, wrong, len(answers))
    return answers


def check_answer(answer: Any, artifact: Artifact, backend: str) -> None:
    """Refuse what an artifact must not answer; see `check_logits` and `check_outputs`.

    Args:
        answer: What the function of `call_of` returned.
        artifact: What ran.
        backend: What ran it, for the error's message.
    """
    if artifact.card.task == "classify":
        check_logits(answer, artifact, backend)
    else:
        check_outputs(answer, artifact, backend)


def _broken(values: np.ndarray) -> bool:
    return bool(np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all())
