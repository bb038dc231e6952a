"""How fast a model trains here, how fast it could, and how many steps that makes."""

import math
import time
from argparse import Namespace
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lib.pretraining.language_model import ROWS_AT_ONCE, Pretraining

TIMED_STEPS = 3
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}  # of the square matrices that give the peak


def plan(
    settings: Namespace, rows: Tensor, precisions: Sequence[str], training_of: Callable[[int, str], Pretraining]
) -> dict:
    """Of a training on `rows` [N, T]: the fastest of `precisions`, and the number of steps that --epochs or --minutes
    come to."""
    if len(precisions) == 1 and settings.epochs:
        [precision] = precisions
    else:
        batches = rows[: settings.batch_size].split(ROWS_AT_ONCE)
        seconds = {precision: seconds_per_step(training_of(100, precision), batches) for precision in precisions}
        print("; ".join(f"{precision}: {value:.2f} s a step" for precision, value in seconds.items()))
        precision = min(seconds, key=seconds.__getitem__)
    if settings.epochs:
        num_steps = math.ceil(settings.epochs * len(rows) / settings.batch_size)
    else:
        num_steps = max(1, int(settings.minutes * 60 / seconds[precision]))
    return {"precision": precision, "num_steps": num_steps}


def seconds_per_step(training: Pretraining, batches: Sequence[Tensor]) -> float:
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
    model, config = training.model, training.model.config.get_text_config()
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tables.discard(id(model.get_output_embeddings().weight))  # tied: of the two uses, the product
    weights = sum(p.numel() for p in model.parameters() if p.dim() == 2 and id(p) not in tables)
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
