"""Whether an adapter that PEFT has loaded is one that the packed pass takes, whole, and as itself when it is merged."""

from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open

from lib.errors import InputError

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def check_adapter(model: PeftModel, folder: Path, *, merge: bool) -> None:
    """Raises InputError for an adapter that works outside of the layers, of which the packed pass would see nothing;
    for weights that its file lacks, for which PEFT takes fresh ones; and, before it is merged, for one on embeddings
    that are tied, since merging would change both."""
    config = model.active_peft_config
    if config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None):
        raise InputError(
            f"{folder}: an adapter of type {config.peft_type} works outside of the layers; train one with LoRA"
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise InputError(f"{folder}: an adapter for {config.task_type}, not for a causal language model (CAUSAL_LM)")
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
        missing = sorted(get_peft_model_state_dict(model, save_embedding_layers=False).keys() - set(file.keys()))
    if missing:
        raise InputError(f"{folder / ADAPTER_WEIGHTS}: lacks {missing[0]}; it is another model's, or incomplete")
    base = model.get_base_model()
    tied = getattr(base.config.get_text_config(), "tie_word_embeddings", False)
    both = base.get_input_embeddings(), base.get_output_embeddings()
    if merge and tied and any(isinstance(one, BaseTunerLayer) for one in both):
        raise InputError(f"{folder}: the adapter changes one of two tied embeddings, and so cannot be merged")
