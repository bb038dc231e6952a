"""Linear layers, LoRA layers and attention by oneDNN's products, a cheaper dropout, and what lies between the products
in one pass, in the place of PyTorch's, PEFT's and transformers' on a CPU."""

from functools import cache

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor, nn

from lib.packed.attention import ATTENTION
from lib.packed.dropout import CheapDropout
from lib.packed.elementwise import GATED, NORMS, OnePassGate, OnePassNorm
from lib.packed.lora import OneDnnLora
from lib.packed.onednn import applies, linear, weight_gradient
from lib.packed.rotary import FAMILIES, OnePassAttention

# What goes before a class of transformers, by its name.
ONE_PASS = {
    **dict.fromkeys(NORMS, OnePassNorm),
    **dict.fromkeys(GATED, OnePassGate),
    **dict.fromkeys(FAMILIES, OnePassAttention),
}


def use_onednn(model: nn.Module) -> nn.Module:
    """Make the layers of `model` (a Hugging Face model, PEFT's wrapper of one, or any module) take oneDNN's products,
    one pass for what lies between them, and the cheaper dropout on a CPU, in place. Names, weights and gradients stay.
    An exporter knows nothing of these layers: it has to be given the model as it was."""
    for module in model.modules():
        if type(module) is lora.Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = OneDnnLora
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
        elif type(module) is nn.Dropout:
            module.__class__ = CheapDropout
        elif ours := ONE_PASS.get(type(module).__name__):
            module.__class__ = _before(ours, type(module))
    causal_lm = model.get_base_model() if isinstance(model, PeftModel) else model
    if getattr(getattr(causal_lm, "config", None), "_attn_implementation", None) == "sdpa":
        causal_lm.set_attn_implementation(ATTENTION)
    return model


@cache
def _before(ours: type, theirs: type) -> type:
    return theirs if issubclass(theirs, ours) else type(theirs.__name__, (ours, theirs), {})


class OneDnnLinear(nn.Linear):
    """A linear layer whose fp32 products are oneDNN's on a CPU, and its gradients with them."""

    def forward(self, states: Tensor) -> Tensor:
        return _Linear.apply(states, self.weight, self.bias) if applies(states) else super().forward(states)


class _Linear(torch.autograd.Function):
    """`linear` with the gradient of whatever asks for one."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states if ctx.needs_input_grad[1] else None, weight)
        return linear(states, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        of_states, of_weight, of_bias = ctx.needs_input_grad
        return (
            linear(gradient, weight.t()) if of_states else None,
            weight_gradient(gradient, states) if of_weight else None,
            gradient.flatten(0, -2).sum(0) if of_bias else None,
        )
