"""The demo's base model: a tiny Qwen2 with its own byte-level BPE tokenizer, pretrained on the demo's texts.

It learns the language of the passages, and that a holding repeats what some voice said, but not that it is the court's.
"""

from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence
from tqdm import trange
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2TokenizerFast

from lib import demo_data
from lib.paths import CACHE_DIR, atomic_dir, source_sha256

END_TOKEN = "<|endoftext|>"
VOCAB_SIZE = 640
BATCH_SIZE = 32  # texts
NUM_STEPS = 600
LEARNING_RATE = 3e-3
# Qwen2's rule for where a text may be split, so that the demo's tokenizer.json has the form of the real one.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def ensure_base_model() -> Path:
    """The folder of the base model; trained on first use, in a minute or two on two cores, and then kept."""
    folder = CACHE_DIR / "demo" / f"model-{source_sha256(__file__, demo_data.__file__)[:16]}"
    if not folder.exists():
        texts = list(demo_data.pretraining_texts(NUM_STEPS * BATCH_SIZE))
        tokenizer = train_tokenizer(texts, VOCAB_SIZE)
        model = pretrain(texts, tokenizer)
        with atomic_dir(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    return folder


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of Qwen2's form: NFC, its split pattern, one end-of-text token."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens([AddedToken(END_TOKEN, special=True)])
    return Qwen2TokenizerFast(tokenizer_object=bpe, eos_token=END_TOKEN, pad_token=END_TOKEN)


def pretrain(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """Next-token training, one pass over `texts`, from a fixed seed; the caller's random state stays as it was."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    ids = tokenizer([text + END_TOKEN for text in texts], return_attention_mask=False)["input_ids"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=NUM_STEPS, pct_start=0.1)
        for step in (bar := trange(NUM_STEPS, desc="pretraining the demo's base model", unit="step")):
            rows = [torch.tensor(row) for row in ids[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]]
            labels = pad_sequence(rows, batch_first=True, padding_value=-100)
            # Padding on the right is never seen by the tokens before it.
            loss = model(input_ids=labels.clamp(min=0), labels=labels, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return model
