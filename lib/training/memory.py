"""Whether a GPU has the memory for training steps without gradient checkpointing, which costs a third of their time."""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from lib.packed.scoring import GPU_LOGITS
from lib.training.negatives import Sampling, TrainingQuestion

# What a decoder layer keeps for the backward pass, in bytes a token: so many times its hidden and its MLP's width, as
# counted of Qwen2's layer with LoRA in bf16 (tests/training/test_memory.py). In fp32 it is twice as much.
BYTES_OF_HIDDEN, BYTES_OF_MLP = 40, 10
USABLE = 0.7  # of the free memory; the rest is for the allocator's gaps and what libraries keep


def pick_checkpointing(
    settings: Mapping,
    model: PreTrainedModel,
    questions: Sequence[TrainingQuestion],
    sampling: Sampling,
    device: torch.device,
) -> tuple[bool, list[str]]:
    """Whether to train with gradient checkpointing, as --grad-checkpointing says or else where a GPU's memory asks for
    it, and what to say of that. `model`: before it has an adapter, on whatever device."""
    if settings["grad_checkpointing"] is not None or device.type != "cuda":
        return bool(settings["grad_checkpointing"]), []
    tokens = settings["batch_size"] * max(drawn_tokens(item, sampling) for item in questions)
    needed = step_bytes(model, tokens, every_weight=settings["lora_r"] == 0)
    free, _ = torch.cuda.mem_get_info(device)
    checkpointing = needed > USABLE * free
    takes = f"a step without it takes about {needed / 1e9:.1f} of {free / 1e9:.1f} GB free"
    return checkpointing, [f"gradient checkpointing: {'on' if checkpointing else 'off'}, {takes}"]


def drawn_tokens(question: TrainingQuestion, sampling: Sampling) -> int:
    """Fed tokens of the longest row that can be drawn of a question."""
    fed = [len(ids) - 1 for ids in question.encoded.ending_ids]
    positives = [fed[index] for index in question.positives[: None if sampling.all_positives else 1]]
    negatives = sorted((fed[index] for index in question.negatives), reverse=True)[: sampling.num_negatives]
    return len(question.encoded.prompt_ids) + sum(positives) + sum(negatives)


def step_bytes(model: PreTrainedModel, tokens: int, *, every_weight: bool) -> int:
    """About the most memory of a step over so many tokens, padding included, without checkpointing: weights, with
    `every_weight` their gradients and AdamW's two moments (an adapter's are small beside it), logits, and what the
    layers keep."""
    config = model.config.get_text_config()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    widths = BYTES_OF_HIDDEN * config.hidden_size
    widths += BYTES_OF_MLP * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    layers = tokens * config.num_hidden_layers * widths * (2 if model.dtype == torch.float32 else 1)
    return (4 if every_weight else 1) * weights + layers + 2 * 4 * GPU_LOGITS
