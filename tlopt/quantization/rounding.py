"""Round weights so that the layer's output, not each weight, is off by least."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
import torch

from tlopt.graphs.view import View, attribute, own_bias
from tlopt.progress import bar
from tlopt.quantization import float8
from tlopt.quantization.calibration.histogram import Histogram
from tlopt.quantization.calibration.moments import Moments, gather, joined, parts, size, split, supported
from tlopt.quantization.grid import Scale
from tlopt.quantization.placement import Placement
from tlopt.quantization.weight_grids import FLOAT8, INTEGERS, Levels, QuantizedWeight, channel_scale, smallest_scale

log = logging.getLogger(__name__)

MEMORY = 400e6  # bytes of second moments held at once
BLOCK = 128
_COLUMNS = 32  # of a block that are made up for one by one; the block's others then see them all at once
_AT_ONCE = 1 << 18  # weights whose scales are chosen at once: they stay in the processor's cache
DAMPING = 1e-3  # of the mean variance, added to each input's own: keeps the matrix regular
_MORE_DAMPING = (1e-2, 1e-1, 1.0)  # where it does not
# Shares of a channel's largest weight that its scale may span: a weight on an input that hardly
# varies need not stretch the scale of all others.
_SHARES = (*np.linspace(1.0, 0.7, 16), *np.geomspace(0.6, 0.001, 16))


def round_weights(
    view: View,
    placement: Placement,
    scales: Mapping[str, Scale],
    batches: Callable[[], Iterable[np.ndarray]],
    *,
    seed: int,
    nearest: bool = False,
    bias_correction: bool = True,
    histograms: Mapping[str, Histogram] | None = None,
) -> dict[str, QuantizedWeight]:
    """Return all weights to quantize whose input can be looked at, in 8 bits.

    Args:
        view: Of a cleaned float graph.
        placement: Which weights.
        scales: Of the activations.
        batches: Network inputs, anew at each call: the images are gone through as often as memory asks.
        seed: Of the choice of places in an image.
        nearest: Round each weight to the nearest number.
        bias_correction: Let biases make up for the mean error of weights and activations.
        histograms: Of the activations; they tell which images weigh less than others.
    """
    nodes = [node for node in view.nodes if node.name in placement.weights and supported(view, node)]
    rounded: dict[str, QuantizedWeight] = {}
    with bar("Rounding weights", len(nodes)) as shown:
        for part in _parts(view, nodes):
            moments = gather(view, part, batches(), scales, seed=seed, histograms=histograms)
            for node in part:
                weight, bias = view.constant(node.input[1]), own_bias(view, node)
                assert weight is not None
                scale = scales[node.input[0]].scale
                floor = smallest_scale(bias, scale) if placement.integer_bias and bias is not None else None
                # A value rounded to integers is off by a uniform amount of variance step^2 / 12.
                levels = FLOAT8 if placement.float8 else Levels(limit=placement.limit(view, node))
                rounded[node.name] = round_weight(
                    node, weight, moments.pop(node.name),
                    noise=0.0 if placement.float8 else scale**2 / 12, floor=floor, levels=levels, nearest=nearest,
                    shifted=bias_correction and bias is not None,
                )  # fmt: skip
                shown.advance()
    return rounded


def _parts(view: View, nodes: list[onnx.NodeProto]) -> list[list[onnx.NodeProto]]:
    """Split the nodes so that the second moments of each part fit into `MEMORY`."""
    found: list[list[onnx.NodeProto]] = []
    room = 0.0
    for node in nodes:
        groups, length = size(view, node)
        needed = 8 * groups * length**2 / parts(length)
        if not found or needed > room:
            found.append([])
            room = MEMORY
        found[-1].append(node)
        room -= needed
    return found


def round_weight(
    node: onnx.NodeProto,
    weight: np.ndarray,
    moments: Moments,
    *,
    noise: float,
    floor: np.ndarray | None = None,
    levels: Levels = INTEGERS,
    nearest: bool = False,
    shifted: bool = True,
) -> QuantizedWeight:
    """Return the numbers of a weight that change the layer's output least on average.

    Columns are rounded one after the other, and what each rounding changes is made up for by the
    columns still to come: GPTQ, Frantar et al., arXiv:2210.17323. Where a bias undoes a change of the
    mean, that of the rounded and clipped input included (bias correction, Nagel et al.,
    arXiv:1906.04721), the covariance takes the place of the second moment, and what the bias has to
    add is returned as `shift`.

    Args:
        node: Conv, Gemm or MatMul.
        weight: Its weight.
        moments: Of its input.
        noise: Variance that the rounding of the input itself adds.
        floor: Smallest scale of each output channel, float32 (channels,).
        levels: The numbers that a weight may take.
        nearest: Round each weight to the nearest integer, of the scale that spans them all.
        shifted: There is a bias that undoes a change of the mean.
    """
    across = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))
    rows = (weight.T if across else weight).astype(np.float64)
    groups, length = moments.mean.shape
    flat = rows.reshape(groups, -1, length)
    second = moments.second(centered=shifted)
    power = np.maximum(np.einsum("gii->gi", second), 0)
    every = range(second.shape[1])
    squares = power + np.square(moments.mean).reshape(power.shape) if shifted else power
    second[:, every, every] += noise + levels.noise * squares + DAMPING * power.mean() + 1e-12
    widest = channel_scale(flat.reshape(-1, length), 0, limit=levels.limit).reshape(groups, -1)
    least = np.zeros_like(widest) if floor is None else floor.reshape(groups, -1)
    if nearest:
        scale = np.maximum(widest, least)
        found = levels.nearest(flat / scale[:, :, None])
    else:
        scale = _scales(flat, power.reshape(groups, length), widest, least, levels)
        each = len(second) // groups  # parts of a long row, each rounded by itself
        divided = _levels(
            node.name, split(flat, len(second)), second, power.mean(), np.repeat(scale, each, axis=0), levels
        )
        found = joined(divided, groups)
    shift = None
    if shifted:
        real = found * scale[:, :, None].astype(np.float64)
        shift = np.einsum("god,gd->go", flat, moments.mean) - np.einsum("god,gd->go", real, moments.rounded_mean)
        shift = shift.reshape(-1).astype(np.float32)
    values = found.reshape(rows.shape)
    values = values.astype(np.int8) if levels.whole else float8.encode(values)
    return QuantizedWeight(
        values=np.ascontiguousarray(values.T) if across else values,
        scale=scale.reshape(-1),
        axis=1 if across else 0,
        shift=shift,
    )


def _scales(flat: np.ndarray, power: np.ndarray, widest: np.ndarray, least: np.ndarray, levels: Levels) -> np.ndarray:
    """Return each channel's scale of least error, inputs taken as independent: float32 (groups, o)."""
    flat, power = flat.astype(np.float32), power.astype(np.float32)  # half the memory to go through
    groups, channels, length = flat.shape
    step = max(1, _AT_ONCE // (groups * length))
    starts = [slice(start, start + step) for start in range(0, channels, step)]
    found = [_scales_of(flat[:, one], power, widest[:, one], least[:, one], levels) for one in starts]
    return np.concatenate(found, axis=1)


def _scales_of(
    flat: np.ndarray, power: np.ndarray, widest: np.ndarray, least: np.ndarray, levels: Levels
) -> np.ndarray:
    best = np.full(widest.shape, np.inf)
    chosen = np.maximum(widest, least)
    for share in _SHARES:
        scale = np.maximum(widest * np.float32(share), least).astype(np.float32)
        wide = scale[:, :, None]
        error = flat - levels.nearest(flat / wide) * wide
        cost = np.einsum("god,gd->go", np.square(error), power)
        better = cost < best
        best[better], chosen[better] = cost[better], scale[better]
    single: np.ndarray = chosen.astype(np.float32)
    return single


def _levels(
    name: str, flat: np.ndarray, second: np.ndarray, power: float, scale: np.ndarray, levels: Levels
) -> np.ndarray:
    """Return the numbers of least output error, float64 (groups, o, d); nearest ones if none can be found."""
    order = np.argsort(-np.einsum("gii->gi", second).sum(0))  # the inputs that matter most first
    for damping in (0.0, *_MORE_DAMPING):
        second[:, range(len(order)), range(len(order))] += damping * power
        factor = _factor(second[:, order[:, None], order])
        if factor is not None:
            found = np.empty_like(flat)
            found[:, :, order] = _rounded(np.take(flat, order, axis=2), factor, scale, levels)
            return found
    log.warning("the weights of %s are rounded to nearest: GPTQ cannot use the covariance of its inputs", name)
    return levels.nearest(flat / scale[:, :, None])


def _factor(second: np.ndarray) -> np.ndarray | None:
    """Return the upper factor of the inverse: row i tells how columns after i make up for an error in i.

    None if the matrix is not positive definite, to the precision of its numbers.
    """
    # From the last input to the first, the factor of the matrix itself is an upper one, and its inverse is what is
    # wanted: half the work of inverting the matrix and factoring that.
    matrix = torch.from_numpy(second).flip(-1, -2)
    del second  # of a wide layer each of these is hundreds of megabytes: no two more than needed at once
    matrix, failed = torch.linalg.cholesky_ex(matrix)
    if failed.any():
        return None
    matrix = _inverse(matrix.flip(-1, -2))
    if not torch.isfinite(matrix).all():
        return None
    upper: np.ndarray = matrix.numpy()
    return upper


def _inverse(upper: torch.Tensor) -> torch.Tensor:
    """Return the inverse of upper triangular matrices (..., d, d), by halves."""
    length = upper.shape[-1]
    if length <= BLOCK:
        ones = torch.eye(length, dtype=upper.dtype).expand_as(upper)
        solved: torch.Tensor = torch.linalg.solve_triangular(upper, ones, upper=True)
        return solved
    half = length // 2
    found = torch.zeros_like(upper)
    found[..., :half, :half] = first = _inverse(upper[..., :half, :half])
    found[..., half:, half:] = last = _inverse(upper[..., half:, half:])
    found[..., :half, half:] = -(first @ upper[..., :half, half:]) @ last
    return found


def _rounded(flat: np.ndarray, upper: np.ndarray, scale: np.ndarray, levels: Levels) -> np.ndarray:
    """Return the numbers, float64 (groups, o, d); `flat` is used up."""
    length = flat.shape[2]
    wide = scale.astype(np.float64)
    rounded = np.empty_like(flat)
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        # Column after column is read, so each has to lie in one piece: (groups, columns, channels).
        block = np.ascontiguousarray(flat[:, :, start:end].transpose(0, 2, 1))
        found, errors = np.empty_like(block), np.empty_like(block)
        inner = upper[:, start:end, start:end]
        for first in range(0, end - start, _COLUMNS):
            last = min(first + _COLUMNS, end - start)
            for i in range(first, last):
                row, column = inner[:, i], block[:, i]
                found[:, i] = levels.nearest(column / wide)
                errors[:, i] = (column - found[:, i] * wide) / row[:, None, i]
                block[:, i + 1 : last] -= errors[:, i, None] * row[:, i + 1 : last, None]
            block[:, last:] -= inner[:, first:last, last:].transpose(0, 2, 1) @ errors[:, first:last]
        rounded[:, :, start:end] = found.transpose(0, 2, 1)
        flat[:, :, end:] -= np.ascontiguousarray(errors.transpose(0, 2, 1)) @ upper[:, start:end, end:]
    return rounded
