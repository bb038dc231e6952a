"""How fast a model trains here, and how fast it could."""

import time
from collections.abc import Callable

import torch

from lib.pretraining.language_model import Pretraining

TIMED_STEPS = 3
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}  # of the square matrices that give the peak


def seconds_per_step(training: Pretraining, batches: list[torch.Tensor]) -> float:
    """Median over a few optimizer steps on `batches`, after one to warm up (and compile); `training` is used up."""
    training.step(batches)
    return _median_seconds(lambda: training.step(batches), training.device)


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of one large square product in "fp32" or "bf16": what the device reaches at best."""
    size = PRODUCT_SIZE.get(device.type, 2048)
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    matrix @ matrix
    return 2 * size**3 / _median_seconds(lambda: matrix @ matrix, device)


def flops_per_token(training: Pretraining, row_length: int) -> float:
    """FLOP of training on a token, forward and backward: 6 a weight that takes part in a product (Kaplan et al. 2020,
    section 2.1), and for attention 6 a layer, feature and token of the row, of which half are seen on average."""
    config = training.model.config
    weights = sum(p.numel() for p in training.model.parameters() if p.dim() == 2)  # tied: the projection alone
    return 6 * weights + 6 * config.num_hidden_layers * config.hidden_size * row_length


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(TIMED_STEPS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[TIMED_STEPS // 2]
