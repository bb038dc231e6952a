"""How the activations of each product by weights are best read in 8 bits, found on real questions.

A row of activations has one scale, so that a channel which is large in every row costs the others their digits, and so
does whatever channel is large in this row; and a channel that is huge in one row, the first token's mostly, multiplies
what rounding did to its weights. Against the first stands SmoothQuant (Xiao et al. 2023, equation 4): channel j is
divided by max|X_j|^a / max|W_j|^(1 - a), and row j of the weights takes it over. Against the second, QuaRot (Ashkboos
et al. 2024): blocks of channels are rotated by a Hadamard matrix, the weights too, which spreads a large value over its
block; for MLPs on their way down mostly. Against the third, as LLM.int8() does it (Dettmers et al. 2022), such channels
are multiplied in fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from scipy.linalg import hadamard

from lib.export.session import open_session
from lib.packed.pack import pack
from lib.questions.prompt import EncodedQuestion

LEVELS = 127  # of a symmetric 8-bit number
SMALLEST = np.float32(1e-30)  # of a row's largest: a row of zeros stays zeros
# Of the median channel: one that was silent on the sample may still speak, and its factor must not wipe out the others.
FLOOR = 1e-3
STRENGTHS = (0.5, 0.6, 0.7, 0.8)  # a of SmoothQuant
QUESTIONS = 8  # that are looked at
SAMPLE = 256  # rows of activations, over all questions, and columns of a weight, that errors are measured on
WORTH_IT = 0.75  # of the error, at most, that a remedy has to leave
BLOCK = 32  # channels that are rotated together; 16 cost a little less and leave more, 64 leave no less
HADAMARD = (hadamard(BLOCK) / np.sqrt(BLOCK)).astype(np.float32)
OUTLIER = 4.0  # a channel this many times as large as the median one
WIDEST = 2.0  # outputs of the products of the same activations, for each of their inputs


@dataclass(frozen=True)
class Activations:
    """Of one value of the graph. rows [n, in]: a sample; largest [in]: of each channel, over all rows."""

    rows: np.ndarray
    largest: np.ndarray


def observe(source: Path, names: Sequence[str], encoded: Sequence[EncodedQuestion]) -> dict[str, Activations]:
    """What the values `names` [B, L, in] or [M, in] of the graph at `source` are on the first questions."""
    model = ir.load(source)
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(values[name] for name in names)
    path = source.with_name("observed.onnx")  # beside the weights, which it shares
    try:
        ir.save(model, path)
        session = open_session(path)
    finally:
        path.unlink(missing_ok=True)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
    largest: dict[str, np.ndarray] = {}
    for item in encoded[:QUESTIONS]:
        inputs = {name: tensor.numpy() for name, tensor in pack([item]).tensors().items()}
        for name, value in zip(names, session.run(list(names), inputs), strict=True):
            rows = value.reshape(-1, value.shape[-1])
            highest = np.abs(rows).max(axis=0)
            largest[name] = np.maximum(largest.get(name, highest), highest)
            # The first row always: the first token's activations are like no other's.
            samples[name].append(rows[:: max(1, len(rows) * QUESTIONS // SAMPLE)].copy())
    return {name: Activations(np.concatenate(samples[name]), largest[name]) for name in names}


def remedy(activations: Activations, weights: Sequence[np.ndarray], apart: np.ndarray) -> tuple[np.ndarray, bool]:
    """What channels [in] are divided by before they are rounded, all `weights` [in, out] being multiplied by it, and
    whether they are rotated then: of what is measured on the median row the least error, but each of the two only where
    it leaves no more than `WORTH_IT`. Channels `apart` [in] do not count."""
    rows = activations.rows * ~apart
    every = np.concatenate([_columns(weight) for weight in weights], axis=1) * ~apart[:, None]
    factors = [np.ones_like(activations.largest)]
    of_weights, of_activations = _with_floor(np.abs(every).max(axis=1)), _with_floor(activations.largest)
    for strength in STRENGTHS:
        factor = np.where(apart, 1, of_activations**strength / of_weights ** (1 - strength))
        factors.append((factor / np.sqrt(factor.max() * factor.min())).astype(np.float32))
    plain = _best_factor(rows, every, factors, rotated=False)
    if len(apart) % BLOCK == 0:
        turned = _best_factor(rows, every, factors, rotated=True)
        if turned[0] < WORTH_IT * plain[0]:
            return turned[1], True
    return plain[1], False


def _with_floor(largest: np.ndarray) -> np.ndarray:
    """Values [in] of channels that count as no smaller than `FLOOR` of the median one."""
    return largest.clip(max(SMALLEST, FLOOR * np.median(largest)))


def _best_factor(
    rows: np.ndarray, weight: np.ndarray, factors: Sequence[np.ndarray], *, rotated: bool
) -> tuple[float, np.ndarray]:
    """The least error and its factor, but the first one, of ones, where no other is worth it."""
    errors = []
    for factor in factors:
        pair = rows / factor, weight * factor[:, None]
        errors.append(np.median(row_errors(rotate(pair[0].T).T, rotate(pair[1])) if rotated else row_errors(*pair)))
    best = int(np.argmin(errors))
    best = best if errors[best] < WORTH_IT * errors[0] else 0
    return float(errors[best]), factors[best]


def rotate(weight: np.ndarray) -> np.ndarray:
    """weight [in, out] for activations whose channels are rotated, `BLOCK` at a time; twice is as if never."""
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    return np.einsum("ij,bjo->bio", HADAMARD, blocks, optimize=True).reshape(weight.shape)


def out_of_line(activations: Activations, weights: Sequence[np.ndarray]) -> np.ndarray:
    """Which channels [in] are to be multiplied in fp32 by their rows of `weights` [in, out]. None of products so wide
    that adding to them would cost more than it gives: MLPs on their way up, the projection."""
    return (activations.largest > OUTLIER * np.median(activations.largest)) & (not is_wide(weights))


def is_wide(weights: Sequence[np.ndarray]) -> bool:
    """Whether products [in, out] of the same activations have together more than `WIDEST` outputs an input."""
    return sum(weight.shape[1] for weight in weights) > WIDEST * len(weights[0])


def row_errors(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Squared error [n] of rows [n, in] by weight [in, out] in 8 bits, relative to the square of the exact product."""
    exact = rows @ weight
    scales = np.abs(rows).max(axis=1, keepdims=True).clip(SMALLEST) / LEVELS
    columns = channel_scales(weight)
    product = (np.rint(rows / scales) * scales) @ (np.rint(weight / columns) * columns)
    return ((product - exact) ** 2).sum(axis=1) / (exact**2).sum(axis=1).clip(SMALLEST)


def channel_scales(weight: np.ndarray) -> np.ndarray:
    """Scales [out] in fp32 of a weight [in, out]: the largest of each output channel is 127 levels."""
    scales = np.abs(weight).max(axis=0) / LEVELS
    scales[scales == 0] = 1
    return scales.astype(np.float32)


def _columns(weight: np.ndarray) -> np.ndarray:
    return weight[:, :: max(1, weight.shape[1] // SAMPLE)]
