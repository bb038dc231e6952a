"""Linear layers by oneDNN on a CPU. PyTorch's own fp32 product is MKL's, which on AMD processors leaves AVX-512 unused:
at the model's shapes oneDNN is more than twice as fast there."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """states [..., I] by weight [O, I] (of any strides) and bias [O], without a gradient."""
    if states.device.type == "cpu" and states.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return F.linear(states, weight, bias)


class OneDnnLinear(nn.Linear):
    """A linear layer whose fp32 products are oneDNN's on a CPU, and its gradients with them."""

    def forward(self, states: Tensor) -> Tensor:
        if states.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(states)
        return _Linear.apply(states, self.weight, self.bias)


def use_onednn(model: nn.Module) -> nn.Module:
    """Make the linear layers of `model` `OneDnnLinear`, in place. Names, weights and gradients stay. An exporter knows
    nothing of the layer: it has to be given the model as it was."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
    return model


class _Linear(torch.autograd.Function):
    """`linear` with the gradient of whatever asks for one."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states if ctx.needs_input_grad[1] else None, weight)
        return linear(states, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        states, weight = ctx.saved_tensors
        flat = gradient.flatten(0, -2)
        of_states, of_weight, of_bias = ctx.needs_input_grad
        return (
            linear(gradient, weight.t()) if of_states else None,
            flat.t() @ states.flatten(0, -2) if of_weight else None,
            flat.sum(0) if of_bias else None,
        )
