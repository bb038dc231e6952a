"""The demo's base model: a tiny Qwen2 with its own byte-level BPE tokenizer, pretrained on the demo's texts.

It learns the language of the passages, and that a holding repeats what some voice said, but not that it is the court's.
"""

from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from lib.checksums import check_sums, write_sums
from lib.demo import data as demo_data
from lib.paths import CACHE_DIR, atomic_dir, cache_lock, source_sha256
from lib.pretraining import language_model
from lib.pretraining.language_model import END_TOKEN, Pretraining, new_model, train_tokenizer
from lib.progress import progress

VOCAB_SIZE = 640
BATCH_SIZE = 32  # texts
NUM_STEPS = 600
LEARNING_RATE = 3e-3


def ensure_base_model() -> Path:
    """The folder of the base model; trained on first use, in a minute or two on two cores, and then kept."""
    key = source_sha256(__file__, demo_data.__file__, language_model.__file__)
    folder = CACHE_DIR / "demo" / f"model-{key[:16]}"
    if folder.exists():
        check_sums(folder)
        return folder
    with cache_lock(folder):
        if not folder.exists():  # another process may have made it meanwhile
            texts = list(demo_data.pretraining_texts(NUM_STEPS * BATCH_SIZE))
            tokenizer = train_tokenizer(texts, VOCAB_SIZE)
            model = pretrain(texts, tokenizer)
            with atomic_dir(folder, shared=True) as temporary:
                model.save_pretrained(temporary)
                tokenizer.save_pretrained(temporary)
                write_sums(temporary)
    return folder


def pretrain(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """Next-token training, one pass over `texts`, from a fixed seed; the caller's random state stays as it was."""
    ids = tokenizer([text + END_TOKEN for text in texts], return_attention_mask=False)["input_ids"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = new_model(
            tokenizer,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
        )
        training = Pretraining(model, NUM_STEPS, LEARNING_RATE)
        for step in (bar := progress(range(NUM_STEPS), desc="pretraining the demo's base model", unit="step")):
            rows = [torch.tensor(row) for row in ids[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]]
            loss = training.step([pad_sequence(rows, batch_first=True, padding_value=-100)])
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    return model
