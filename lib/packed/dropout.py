"""Dropout on a CPU. PyTorch's draws each element by itself, on one core however many there are."""

import torch
from torch import Tensor, nn

BITS = 16  # of randomness an element; four elements share a draw
STEPS = 2**BITS


class SixteenBitDropout(nn.Dropout):
    """`nn.Dropout` (Srivastava et al. 2014) of states of any shape, whose rate on a CPU is the nearest multiple of
    2^-16; what is kept is scaled by that very rate."""

    def forward(self, states: Tensor) -> Tensor:
        dropped = round(self.p * STEPS)
        if not self.training or not dropped or dropped == STEPS or states.device.type != "cpu":
            return super().forward(states)
        return _Dropout.apply(states, dropped)


class _Dropout(torch.autograd.Function):
    """Keeps a byte an element for the backward pass, where PyTorch keeps a number of the states' type."""

    @staticmethod
    def forward(ctx, states: Tensor, dropped: int) -> Tensor:
        draws = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        uniform = draws.view(torch.int16)[: states.numel()].view(states.shape)  # from -2^15 to 2^15 - 1
        kept = uniform >= dropped - STEPS // 2
        ctx.save_for_backward(kept)
        ctx.scale = STEPS / (STEPS - dropped)
        return (states * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        [kept] = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None
