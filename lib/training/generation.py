"""Endings that a model writes: sampled for batches of prompts, and what becomes of the tokens."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lib.models.loading import LoadedModel
from lib.questions.data import STRIP
from lib.questions.prompt import EncodedQuestion

BATCH_SIZE = 8  # prompts; what is sampled depends on it


@dataclass(frozen=True)
class Generation:
    """count: endings a prompt. seed: of what is sampled. end_token: whether given endings are closed by one, which
    does not count towards their length."""

    count: int
    seed: int
    end_token: bool


class EndingSampler:
    """Batches of prompts of like length, each sampled from a seed of its own: the same whenever and by whichever
    process. batches: indices of questions."""

    def __init__(self, loaded: LoadedModel, encoded: Sequence[EncodedQuestion], generation: Generation):
        self.model, self.tokenizer, self.generation = loaded.model, loaded.tokenizer, generation
        self.prompts = [item.prompt_ids for item in encoded]
        self.longest = [max(map(len, item.ending_ids)) - generation.end_token for item in encoded]
        by_length = sorted(range(len(encoded)), key=lambda index: (len(self.prompts[index]), index))
        self.batches = [by_length[start : start + BATCH_SIZE] for start in range(0, len(by_length), BATCH_SIZE)]
        self.stops = stop_ids(self.tokenizer)

    @torch.no_grad()
    def sample(self, number: int) -> list[list[str]]:
        """The endings of each prompt of a batch, at temperature 1; torch's random state is as it was before."""
        indices, count, padding = self.batches[number], self.generation.count, self.tokenizer.eos_token_id
        own_config = self.model.generation_config
        # The model's own settings (penalties, top-p, its length) would be mixed into those given to generate.
        self.model.generation_config = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=count,
            max_new_tokens=max(self.longest[index] for index in indices),
            eos_token_id=self.stops,
            pad_token_id=padding,
            use_cache=True,
        )
        ids, mask = left_padded([self.prompts[index] for index in indices], padding)
        try:
            with torch.random.fork_rng():
                torch.manual_seed(random.Random(f"{self.generation.seed}/{number}").getrandbits(63))
                output = self.model.generate(ids.to(self.model.device), attention_mask=mask.to(self.model.device))
        finally:
            self.model.generation_config = own_config
        rows = output[:, ids.shape[1] :].tolist()
        return [
            [ending_of(row[: self.longest[index]], self.tokenizer) for row in rows[place * count : (place + 1) * count]]
            for place, index in enumerate(indices)
        ]


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens at which an ending is over: end of text, and every token with a new line in it."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return [tokenizer.eos_token_id, *(token for token, text in enumerate(texts) if "\n" in text)]


def left_padded(prompts: Sequence[list[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask [B, L] whose rows all end with the prompt's last token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[padding] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    return ids, mask


def ending_of(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The first line of what was generated up to the end token, without pieces of characters."""
    end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else len(ids)
    return tokenizer.decode(ids[:end], skip_special_tokens=True).replace("\ufffd", "").split("\n")[0].strip(STRIP)
