"""Whether a model can take the packed pass: by its family, and by packed log-probs against ordinary forwards."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lib.errors import InputError
from lib.packed.pack import pack
from lib.packed.positions import made_for
from lib.packed.precision import parameters_in_fp32
from lib.packed.scoring import PackedScorer
from lib.questions.prompt import EncodedQuestion

ADVICE = "use a model with full attention in every layer, such as Qwen2, Llama or Qwen3"
CHANGES_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")  # Gemma, Granite, Cohere
# Per unit of log-prob size, and absolute. bf16 keeps 8 bits of each product, whatever the layout.
TOLERANCE = {"fp32": (1e-4, 1e-3), "bf16": (0.02, 0.5)}
CHECKED_CANDIDATES = 8  # of a question; each has a forward of its own, and class names can be hundreds


def check_family(model: PreTrainedModel, max_length: int) -> None:
    """Refuse models that cannot take packed rows of prompts and endings of `max_length` tokens; raises InputError."""
    config = model.config.get_text_config()
    name, (positions, window) = config.model_type, _bounds(model)
    if positions and positions < max_length:
        raise InputError(
            f"the model was made for {positions} positions, fewer than --max-length {max_length}; past them its "
            f"log-probs mean little; train with --max-length {positions}, or give an untuned model the --contract of "
            "such a run"
        )
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    modules = {type(module).__name__.lower() for module in model.modules()}
    if any(word in module for module in modules for word in ("mamba", "rwkv", "recurrent")):
        kinds.add("state-space")
    if kinds:
        layers = ", ".join(sorted(kinds))
        raise InputError(f"model family {name} has {layers} layers, which cannot keep candidates apart; {ADVICE}")
    for setting in CHANGES_LOGITS:
        if getattr(config, setting, None) not in (None, 1):
            raise InputError(
                f"model family {name} changes its logits after the projection ({setting}), which the packed pass does "
                f"not; {ADVICE}"
            )
    # The window counts positions, and these restart in every branch: no token is further than `max_length` from what
    # it sees, however long the packed row is.
    if window and window < max_length:
        raise InputError(
            f"model family {name} has a sliding window of {window} tokens, shorter than --max-length {max_length}; "
            f"train with --max-length {window}, or {ADVICE}"
        )


def max_positions(model: PreTrainedModel) -> int | None:
    """The longest sequence of which full attention gives the model's own log-probs, None where there is no bound."""
    return min(filter(None, _bounds(model)), default=None)


def _bounds(model: PreTrainedModel) -> tuple[int | None, int | None]:
    """The positions that the model was made for, and its sliding window; None where nothing ends there."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return made_for(config), window


def unpacked_logprobs(causal_lm: torch.nn.Module, item: EncodedQuestion, device) -> Tensor:
    """Log-probs [K] in fp32, each candidate in a forward of its own with the model's own causal mask."""
    values = []
    for ending in item.ending_ids:
        ids = torch.tensor([item.prompt_ids + ending], device=device)
        logits = causal_lm(input_ids=ids, use_cache=False).logits[0, len(item.prompt_ids) - 1 : -1]
        target = torch.tensor(ending, device=device)
        values.append(logits.float().log_softmax(-1).gather(1, target[:, None]).sum())
    return torch.stack(values)


@torch.no_grad()
def check_packed_pass(scorer: PackedScorer, encoded: Sequence[EncodedQuestion], device) -> tuple[float, str]:
    """Largest difference of a log-prob between the packed pass and ordinary forwards on a question of median length,
    and the precision in which it was found: fp32 whatever the run's, since the rounding of bf16 hides a model that
    half-follows the mask; bf16 where the device has no room for the weights in fp32.

    Raises InputError where it exceeds `TOLERANCE`: the model family does not follow the packed mask or positions.
    """
    item = sorted(encoded, key=lambda item: item.num_tokens)[len(encoded) // 2]
    item = replace(item, ending_ids=item.ending_ids[:CHECKED_CANDIDATES])
    # A scorer that accelerate has prepared would compute in the run's precision.
    bare, precision, was_training = PackedScorer(scorer.model), "fp32", scorer.training
    scorer.eval()
    try:
        try:
            with parameters_in_fp32(scorer.model):
                packed, plain = _both_ways(bare, item, device)
        except torch.OutOfMemoryError:
            precision = "bf16"
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                packed, plain = _both_ways(bare, item, device)
    except (TypeError, NotImplementedError) as error:
        raise InputError(f"this model family cannot take the packed mask ({error}); {ADVICE}") from None
    finally:
        scorer.train(was_training)
    relative, absolute = TOLERANCE[precision]
    difference = (packed - plain).abs()
    if not (difference <= relative * plain.abs() + absolute).all():
        raise InputError(
            f"self-check failed: packed log-probs differ from unpacked ones by {difference.max():.3g} on question "
            f"{item.question.id}; this model family cannot take the packed mask; {ADVICE}"
        )
    return difference.max().item(), precision


def _both_ways(scorer: PackedScorer, item: EncodedQuestion, device) -> tuple[Tensor, Tensor]:
    """Log-probs [K] of the packed pass, and of ordinary forwards."""
    return scorer(pack([item]).to(device)).float()[0], unpacked_logprobs(scorer.causal_lm, item, device)
