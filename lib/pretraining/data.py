"""Texts as rows of tokens to pretrain on: documents end to end, cut into rows of one length."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lib.errors import InputError
from lib.pretraining.language_model import train_tokenizer
from lib.progress import progress

ROWS_FILE = "rows.safetensors"
HELD_OUT_SHARE = 0.02  # of the documents
MAX_HELD_OUT_ROWS = 64  # more would make the figure no better and training slower
TOKENIZER_DOCUMENTS = 50_000  # enough to count pairs; more would only take longer
ENCODE_AT_ONCE = 256  # documents


@dataclass(frozen=True)
class Rows:
    """train, held_out [N, T] int32: no padding, documents closed by the end-of-text token. held_out_bytes: UTF-8 bytes
    that the predicted tokens of `held_out` stand for."""

    train: Tensor
    held_out: Tensor
    held_out_bytes: int

    def save(self, folder: Path) -> None:
        metadata = {"held_out_bytes": str(self.held_out_bytes)}
        save_file({"train": self.train, "held_out": self.held_out}, folder / ROWS_FILE, metadata)

    @staticmethod
    def load(folder: Path, held_out_bytes: int) -> "Rows":
        tensors = load_file(folder / ROWS_FILE)
        return Rows(tensors["train"], tensors["held_out"], held_out_bytes)


def prepare(
    texts: Sequence[str], vocab: int | PreTrainedTokenizerBase, row_length: int, seed: int
) -> tuple[PreTrainedTokenizerBase, Rows]:
    """A tokenizer, and the rows of the documents and of those held out, which are drawn from `seed`. vocab: how many
    tokens one has that is trained on `texts` without the held-out ones, or the tokenizer.

    Raises InputError where there is too little text for a row of each.
    """
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    num_held_out = max(1, round(HELD_OUT_SHARE * len(texts)))
    held_out, train = ([texts[index] for index in part] for part in (order[:num_held_out], order[num_held_out:]))
    tokenizer = vocab
    if isinstance(vocab, int):
        print(f"tokenizer: {vocab} tokens from {len(train):,} documents")
        tokenizer = train_tokenizer(islice(train, TOKENIZER_DOCUMENTS), vocab)
    rows = [pack_rows(part, tokenizer, row_length) for part in (train, held_out)]
    if not all(map(len, rows)):
        raise InputError(
            f"the text is too short: {len(train)} documents to train on give {len(rows[0])} rows of {row_length} "
            f"tokens, {len(held_out)} held out give {len(rows[1])}; give more --text"
        )
    kept = rows[1][:MAX_HELD_OUT_ROWS]
    decoded = tokenizer.batch_decode(kept[:, 1:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return tokenizer, Rows(rows[0], kept, sum(len(text.encode()) for text in decoded))


def pack_rows(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, row_length: int) -> Tensor:
    """[N, row_length] int32: the documents, each opened by the start token that a tokenizer may put and closed by the
    end-of-text token, end to end; what is left over at the end is dropped."""
    ids = []
    for start in progress(range(0, len(texts), ENCODE_AT_ONCE), desc="encoding", unit=f"x{ENCODE_AT_ONCE} documents"):
        batch = [text + tokenizer.eos_token for text in texts[start : start + ENCODE_AT_ONCE]]
        encoded = tokenizer(batch, return_attention_mask=False)["input_ids"]
        ids += [torch.tensor(row, dtype=torch.int32) for row in encoded]
    joined = torch.cat([torch.empty(0, dtype=torch.int32), *ids])
    return joined[: len(joined) // row_length * row_length].view(-1, row_length)
