"""A linear layer with a LoRA adapter on a CPU, in as few passes over memory as there can be."""

import torch
from peft.tuners import lora
from torch import Tensor, nn

from lib.packed import kernels
from lib.packed.dropout import CheapDropout, Drop
from lib.packed.onednn import applies, linear, weight_gradient


class OneDnnLora(lora.Linear):
    """A frozen linear layer with one LoRA adapter; the adapter's product is added where the base layer's lies."""

    def _cast_input_dtype(self, states: Tensor, dtype: torch.dtype) -> Tensor:
        # Under autocast the adapter's products are in its type whatever comes in. PEFT's cast to fp32 would be cast
        # back, and be a fifth of what a layer keeps for the backward pass.
        return states if torch.is_autocast_enabled(states.device.type) else super()._cast_input_dtype(states, dtype)

    def forward(self, states: Tensor, *args, **kwargs) -> Tensor:
        base, name = self.base_layer, self._only_adapter()
        alone = name is not None and not (self.disable_adapters or self.merged or args or kwargs)
        if not (alone and kernels.suits(states, base.weight) and (applies(states) or states.dtype == torch.bfloat16)):
            return super().forward(states, *args, **kwargs)
        dropout = self.lora_dropout[name]
        rate = dropout.p if isinstance(dropout, CheapDropout) and dropout.training else 0.0
        adapter = self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        return _LoraLinear.apply(states, base.weight, base.bias, *adapter, Drop(rate) if rate else None)

    def _only_adapter(self) -> str | None:
        """The adapter's name where there is one, of the usual kind, before a frozen layer."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        plain = len(active) == 1 and active[0] not in self.lora_variant and self.lora_B[active[0]].bias is None
        plain = plain and isinstance(self.lora_dropout[active[0]], CheapDropout | nn.Identity)
        frozen = not any(parameter.requires_grad for parameter in self.base_layer.parameters())
        return active[0] if plain and frozen else None


class _LoraLinear(torch.autograd.Function):
    """states @ weight.T + bias + drop(states) @ lora_a.T @ lora_b.T * scaling in the type of the states [..., I];
    lora_a [r, I] and lora_b [O, r] may be of another, weight [O, I] and bias are frozen. What was dropped is neither
    kept nor stored as a mask: the backward pass drops again."""

    @staticmethod
    def forward(
        ctx, states: Tensor, weight: Tensor, bias: Tensor | None, lora_a, lora_b, scaling: float, drop: Drop | None
    ) -> Tensor:
        states = states.contiguous()
        down, up = lora_a.to(states.dtype), (lora_b * scaling).to(states.dtype)
        hidden = linear(drop(states) if drop else states, down)
        ctx.save_for_backward(states, weight, down, up, hidden)
        ctx.scaling, ctx.drop, ctx.types = scaling, drop, (lora_a.dtype, lora_b.dtype)
        output = linear(states, weight, bias)
        output.view(-1, len(weight)).addmm_(hidden.flatten(0, -2), up.t())
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, down, up, hidden = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_hidden = linear(gradient, up.t())
        of_up = weight_gradient(gradient, hidden).to(ctx.types[1]).mul_(ctx.scaling)
        of_down = weight_gradient(of_hidden, ctx.drop(states) if ctx.drop else states).to(ctx.types[0])
        of_states = None
        if ctx.needs_input_grad[0]:
            of_states = linear(gradient, weight.t())
            if ctx.drop:
                ctx.drop(linear(of_hidden, down.t()), add_to=of_states)
            else:
                of_states.view(-1, of_states.shape[-1]).addmm_(of_hidden.flatten(0, -2), down)
        return of_states, None, None, of_down, of_up, None, None
