"""Norms and gates in one pass over memory each, forward and backward, where kernels.py suits. The classes go before
those of transformers, whose own code has the same result in five to ten passes."""

import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh, SiLUActivation

from lib.packed import kernels

# Of transformers: classes of the norms, and what is added to their weights.
NORMS = {
    **dict.fromkeys(("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "MistralRMSNorm", "Phi3RMSNorm"), 0.0),
    **dict.fromkeys(("GemmaRMSNorm", "Gemma3RMSNorm"), 1.0),
}
# Gated layers down_proj(act_fn(gate_proj(x)) * up_proj(x)), and the activations that are known here.
GATED = ("LlamaMLP", "Qwen2MLP", "Qwen3MLP", "MistralMLP", "Olmo2MLP", "GemmaMLP", "Gemma3MLP")
ACTIVATIONS = {nn.SiLU: 0, SiLUActivation: 0, GELUTanh: 1}


class OnePassNorm:
    """RMSNorm over the last dimension; a weight that is trained is left to PyTorch."""

    def forward(self, states: Tensor) -> Tensor:
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if trained or not kernels.suits(states, self.weight):
            return super().forward(states)
        epsilon = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
        return _RmsNorm.apply(states, self.weight, epsilon, NORMS[type(self).__name__])


class OnePassGate:
    """The gated layer of a Llama."""

    def forward(self, states: Tensor) -> Tensor:
        gate, up = self.gate_proj(states), self.up_proj(states)
        activation = ACTIVATIONS.get(type(self.act_fn))
        if activation is None or not kernels.suits(gate, up):
            return self.down_proj(self.act_fn(gate) * up)
        return self.down_proj(_Gate.apply(gate, up, activation))


class _RmsNorm(torch.autograd.Function):
    """states / sqrt(mean(states^2) + epsilon) * (weight + offset)."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
        states, weight = states.contiguous(), weight.detach()
        out, inverse = torch.empty_like(states), torch.empty(states.shape[:-1], dtype=torch.float32)
        kernels.run("rms_norm", states, weight, out, inverse, inverse.numel(), len(weight), epsilon, offset)
        ctx.save_for_backward(states, weight, inverse)
        ctx.offset = offset
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, inverse = ctx.saved_tensors
        out, sizes = torch.empty_like(states), (inverse.numel(), len(weight))
        kernels.run("rms_norm_backward", gradient.contiguous(), states, weight, inverse, out, *sizes, ctx.offset)
        return out, None, None, None


class _Gate(torch.autograd.Function):
    """activation(gate) * up."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor, activation: int) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        out = torch.empty_like(gate)
        kernels.run("gate", gate, up, out, gate.numel(), activation)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        kernels.run("gate_backward", gradient.contiguous(), gate, up, of_gate, of_up, gate.numel(), ctx.activation)
        return of_gate, of_up, None
