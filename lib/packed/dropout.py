"""Dropout on a CPU. PyTorch's draws each element by itself, on one core however many there are."""

import torch
from torch import Tensor, nn

from lib.packed import kernels

STEPS = 2**32  # of the rate
BITS = 16  # of randomness an element without the kernels; four elements share a draw


class CheapDropout(nn.Dropout):
    """`nn.Dropout` (Srivastava et al. 2014) of states of any shape, whose rate on a CPU is the nearest multiple of
    2^-32 (2^-16 without the kernels); what is kept is scaled by that very rate."""

    def forward(self, states: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1 or states.device.type != "cpu":
            return super().forward(states)
        return (_Hashed if kernels.suits(states) else _Drawn).apply(states, self.p)


def without_dropout(model: nn.Module) -> nn.Module:
    """`model` without the dropout that it was pretrained with, in place: before the first step a policy has to be its
    reference, which has none. An adapter's comes after, and stays."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):  # of attention, mostly a rate that is handed to a function
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


class Drop:
    """One draw of what is dropped: an element's fate is a hash of its place and of a seed, which is drawn here. So
    nothing is kept for the backward pass but the seed."""

    def __init__(self, rate: float):
        self.seed = int(torch.randint(2**62, ()))
        self.dropped = min(round(rate * STEPS), STEPS - 1)
        self.scale = STEPS / (STEPS - self.dropped)

    def __call__(self, states: Tensor, add_to: Tensor | None = None) -> Tensor:
        """The contiguous states with the dropped elements 0 and the others scaled, or `add_to` increased by that."""
        out = torch.empty_like(states) if add_to is None else add_to
        add = int(add_to is not None)
        kernels.run("drop", states, out, states.numel(), self.seed, self.dropped, self.scale, add)
        return out


class _Hashed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states: Tensor, rate: float) -> Tensor:
        ctx.drop = Drop(rate)
        return ctx.drop(states.contiguous())

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.drop(gradient.contiguous()), None


class _Drawn(torch.autograd.Function):
    """Keeps a byte an element for the backward pass, where PyTorch keeps a number of the states' type."""

    @staticmethod
    def forward(ctx, states: Tensor, rate: float) -> Tensor:
        dropped = min(max(round(rate * 2**BITS), 1), 2**BITS - 1)
        draws = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        uniform = draws.view(torch.int16)[: states.numel()].view(states.shape)  # from -2^15 to 2^15 - 1
        kept = uniform >= dropped - 2 ** (BITS - 1)
        ctx.save_for_backward(kept)
        ctx.scale = 2**BITS / (2**BITS - dropped)
        return (states * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        [kept] = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None
