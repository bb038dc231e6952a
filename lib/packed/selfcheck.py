"""Whether a model can take the packed pass: by its family, and by packed log-probs against ordinary forwards."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lib.errors import InputError, first_line
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
    kinds |= {"local"} & set(getattr(config, "attention_layers", None) or [])  # GPT-Neo's window counts rows
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
    """Largest difference of a log-prob between the packed pass and ordinary forwards on a question of median length and
    on the longest, and the precision in which it was found: fp32 whatever the run's, since the rounding of bf16 hides a
    model that half-follows the mask; bf16 where the device has no room for the weights in fp32.

    Raises InputError where it exceeds `TOLERANCE`: the model family does not follow the packed mask or positions; and
    where a question has a token that the model has no embedding of.
    """
    _check_ids(scorer, encoded)
    by_length = sorted(encoded, key=lambda item: item.num_tokens)
    checked = [by_length[len(encoded) // 2], *by_length[len(encoded) // 2 + 1 :][-1:]]
    checked = [replace(item, ending_ids=item.ending_ids[:CHECKED_CANDIDATES]) for item in checked]
    # A scorer that accelerate has prepared would compute in the run's precision.
    bare, precision, was_training = PackedScorer(scorer.model), "fp32", scorer.training
    scorer.eval()
    try:
        try:
            with parameters_in_fp32(scorer.model):
                both = [_both_ways(bare, item, device) for item in checked]
        except torch.OutOfMemoryError:
            precision = "bf16"
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                both = [_both_ways(bare, item, device) for item in checked]
    except (torch.OutOfMemoryError, MemoryError):  # says nothing of the family
        raise
    except Exception as error:  # families that were not made for a mask of four dimensions have no error in common
        raise InputError(f"this model family cannot take the packed mask ({first_line(error)}); {ADVICE}") from None
    finally:
        scorer.train(was_training)
    relative, absolute = TOLERANCE[precision]
    largest = 0.0
    for item, (packed, plain) in zip(checked, both, strict=True):
        difference = (packed - plain).abs()
        if not plain.isfinite().all():
            said = f"log-probs {plain.tolist()} are not finite"
            raise InputError(f"{item.question.source}: {said}; the weights are broken")
        if not (difference <= relative * plain.abs() + absolute).all():
            raise InputError(
                f"self-check failed: packed log-probs differ from unpacked ones by {difference.max():.3g} on question "
                f"{item.question.id}; this model family cannot take the packed mask; {ADVICE}"
            )
        largest = max(largest, difference.max().item())
    return largest, precision


def _check_ids(scorer: PackedScorer, encoded: Sequence[EncodedQuestion]) -> None:
    rows = len(scorer.causal_lm.get_input_embeddings().weight)
    for item in encoded:
        highest = max(map(max, [item.prompt_ids, *item.ending_ids]))
        if highest >= rows:
            raise InputError(
                f"{item.question.source}: token {highest} is beyond the model's {rows} embeddings; it comes with "
                "another tokenizer than it was made with"
            )


def _both_ways(scorer: PackedScorer, item: EncodedQuestion, device) -> tuple[Tensor, Tensor]:
    """Log-probs [K] of the packed pass, and of ordinary forwards."""
    return scorer(pack([item]).to(device)).float()[0], unpacked_logprobs(scorer.causal_lm, item, device)
