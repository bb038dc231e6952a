"""How the activations of each product by weights are best read in 8 bits, found on real questions.

A row of activations has one scale, so that a channel which is large in every row costs the others their digits, and a
channel that is huge in one row, the first token's mostly, multiplies what rounding did to its weights. Against the
first stands SmoothQuant (Xiao et al. 2023, equation 4): channel j is divided by max|X_j|^a / max|W_j|^(1 - a), and row
j of the weights takes it over. Against the second, LLM.int8() (Dettmers et al. 2022): such channels are multiplied in
fp32. What is too coarse even so, mostly an MLP on its way down, is read in two passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from lib.export.session import open_session
from lib.packed.pack import pack
from lib.questions.prompt import EncodedQuestion

LEVELS = 127  # of a symmetric 8-bit number
SMALLEST = np.float32(1e-30)  # of a row's largest: a row of zeros stays zeros
STRENGTHS = (0.5, 0.6, 0.7, 0.8)  # a of SmoothQuant
QUESTIONS = 8  # that are looked at
SAMPLE = 256  # rows of activations, over all questions, and columns of a weight, that errors are measured on
WORTH_IT = 0.5  # of the error, at most, that smoothing has to leave
TOO_COARSE = 2e-4  # relative squared error of a product's median row, past which its activations are read twice
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


def smoothing_factor(activations: Activations, weights: Sequence[np.ndarray]) -> tuple[np.ndarray, bool]:
    """What channels [in] are divided by before they are rounded, all `weights` [in, out] being multiplied by it: the
    strength with the least error of the median row, or ones where none halves the error. And whether the products are
    still too coarse."""
    every = np.concatenate([_columns(weight) for weight in weights], axis=1)
    of_weights = np.abs(every).max(axis=1).clip(SMALLEST)
    of_activations = activations.largest.clip(SMALLEST)
    best = np.ones_like(of_activations)
    lowest = plain = np.median(row_errors(activations.rows, every, best))
    for strength in STRENGTHS:
        factor = of_activations**strength / of_weights ** (1 - strength)
        factor = (factor / np.sqrt(factor.max() * factor.min())).astype(np.float32)
        error = np.median(row_errors(activations.rows, every, factor))
        if error < min(lowest, WORTH_IT * plain):
            best, lowest = factor, error
    return best, bool(lowest > TOO_COARSE)


def out_of_line(activations: Activations, weights: Sequence[np.ndarray]) -> np.ndarray:
    """Which channels [in] are to be multiplied in fp32 by their rows of `weights` [in, out]. None of products so wide
    that adding to them would cost more than it gives: MLPs on their way up, the projection."""
    too_wide = sum(weight.shape[1] for weight in weights) > WIDEST * len(activations.largest)
    return (activations.largest > OUTLIER * np.median(activations.largest)) & (not too_wide)


def row_errors(rows: np.ndarray, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Squared error [n] of rows [n, in] by weight [in, out] in 8 bits, relative to the square of the exact product."""
    exact = rows @ weight
    smooth, scaled = rows / factor, weight * factor[:, None]
    scales = np.abs(smooth).max(axis=1, keepdims=True).clip(SMALLEST) / LEVELS
    columns = channel_scales(scaled)
    product = (np.rint(smooth / scales) * scales) @ (np.rint(scaled / columns) * columns)
    return ((product - exact) ** 2).sum(axis=1) / (exact**2).sum(axis=1).clip(SMALLEST)


def channel_scales(weight: np.ndarray) -> np.ndarray:
    """Scales [out] in fp32 of a weight [in, out]: the largest of each output channel is 127 levels."""
    scales = np.abs(weight).max(axis=0) / LEVELS
    scales[scales == 0] = 1
    return scales.astype(np.float32)


def _columns(weight: np.ndarray) -> np.ndarray:
    return weight[:, :: max(1, weight.shape[1] // SAMPLE)]
