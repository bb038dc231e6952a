"""How many positions a model was made for, and rotary tables that no batch changes."""

from torch import nn
from transformers import PretrainedConfig

# transformers takes other tables as soon as one row of a batch is longer than the model was first made for: log-probs
# of a question would depend on its neighbours, and no graph can be made of that.
FOLLOW_THE_BATCH = ("dynamic", "longrope")


def made_for(config: PretrainedConfig) -> int | None:
    """The positions that a model was made for; None where its rotary embedding is scaled beyond them."""
    scaling = getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type") or scaling.get("type")
    positions = getattr(config, "max_position_embeddings", None)
    if kind == "longrope":  # which counts the longer rows among them
        first = scaling.get("original_max_position_embeddings")
        return first or getattr(config, "original_max_position_embeddings", positions)
    return positions if not scaling or kind in FOLLOW_THE_BATCH else None


def keep_tables(model: nn.Module) -> None:
    """Make tables that follow the batch stay those of rows within `made_for`, which is what the model has there."""
    for module in model.modules():
        if getattr(module, "rope_type", None) in FOLLOW_THE_BATCH:
            module.rope_type = "default"
