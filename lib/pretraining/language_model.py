"""Small Qwen2 models from nothing: the tokenizer and the sizes; and next-token training, of them or of any model,
that resumes to the last bit."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2TokenizerFast

from lib.errors import InputError
from lib.paths import atomic_file

END_TOKEN = "<|endoftext|>"
# Qwen2's rule for where a text may be split, so that tokenizer.json has the form of the real one.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Sizes by their number of weights, the embedding of 8,192 tokens included; heads of 64 features.
SIZES = {
    "5m": dict(hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_key_value_heads=2),
    "15m": dict(hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_key_value_heads=2),
    "40m": dict(hidden_size=512, intermediate_size=1408, num_hidden_layers=12, num_key_value_heads=4),
    "80m": dict(hidden_size=640, intermediate_size=1728, num_hidden_layers=16, num_key_value_heads=5),
}
LEARNING_RATES = {"5m": 2e-3, "15m": 1.5e-3, "40m": 1e-3, "80m": 8e-4}  # the larger the model, the smaller
CONTINUED_LEARNING_RATE = 1e-4  # of a model that is not made here
MAX_POSITIONS = 2048
MAX_GRAD_NORM = 1.0
ROWS_AT_ONCE = 8  # on the device together
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of a parameter


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
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


def new_model(tokenizer: PreTrainedTokenizerBase, **sizes: int) -> Qwen2ForCausalLM:
    """A Qwen2 in fp32 with random weights, drawn from torch's generator; `sizes` are fields of its configuration."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )
    return Qwen2ForCausalLM(config)


class Pretraining:
    """A model in next-token training: AdamW, a cosine schedule with 10 % warm-up, gradients clipped at norm 1."""

    def __init__(
        self,
        model: PreTrainedModel,
        num_steps: int,
        learning_rate: float,
        *,
        weight_decay: float = 0.01,
        precision: str = "fp32",
        compiled: bool = False,
    ):
        """precision: "fp32", or "bf16" for products in bf16, with weights in fp32. compiled: by torch.compile."""
        self.model = model.train()
        self.device = next(model.parameters()).device
        self.forward = torch.compile(model) if compiled else model
        self.precision = precision
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay
        )
        # The schedule cannot divide a warm-up of less than two steps.
        warmup_share = max(0.1, min(0.6, 2 / num_steps))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, learning_rate, total_steps=num_steps, pct_start=warmup_share
        )

    def loss(self, labels: Tensor) -> Tensor:
        """Mean negative log-likelihood in nats of the tokens of `labels` [B, T] after each row's first; -100 is padding
        on the right, which the tokens before it never see."""
        labels = labels.to(self.device, torch.int64)
        bf16 = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with bf16:
            return self.forward(input_ids=labels.clamp(min=0), labels=labels, use_cache=False).loss

    def step(self, batches: Sequence[Tensor]) -> float:
        """One optimizer step on the mean loss of the rows of `batches`, each [B, T]; returns that loss."""
        total, num_rows = 0.0, sum(map(len, batches))
        for labels in batches:
            loss = self.loss(labels) * (len(labels) / num_rows)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    @torch.no_grad()
    def evaluate(self, rows: Tensor, num_bytes: int) -> dict[str, float]:
        """Of `rows` [B, T], whose predicted tokens stand for `num_bytes` of UTF-8: loss in nats a token, perplexity,
        and bits a byte, which no vocabulary changes."""
        loss = sum(self.loss(batch).item() * len(batch) for batch in rows.split(ROWS_AT_ONCE)) / len(rows)
        return {
            "held_out_loss": loss,
            "held_out_perplexity": math.exp(loss),
            "bits_per_byte": loss * rows[:, 1:].numel() / math.log(2) / num_bytes,
        }

    def save(self, path: Path, **state) -> None:
        """Weights, moments and schedule as one safetensors file, whole or not at all; `state` is kept as JSON."""
        tensors = {}
        for name, parameter in self.model.named_parameters():
            tensors[f"weight.{name}"] = parameter.data
            tensors |= {f"{key}.{name}": self.optimizer.state[parameter][key] for key in MOMENTS}
        groups = [{key: value for key, value in g.items() if key != "params"} for g in self.optimizer.param_groups]
        metadata = json.dumps({"groups": groups, "schedule": self.schedule.state_dict(), "state": state})
        with atomic_file(path) as temporary:
            save_file(tensors, temporary, metadata={"pretraining": metadata, "sha256": _sha256(tensors, metadata)})

    def load(self, path: Path) -> dict:
        """Restore what `save` wrote and return its `state`. Raises InputError for a broken file."""
        try:
            with safe_open(path, "pt") as file:
                tensors, kept = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
            if kept["sha256"] != _sha256(tensors, kept["pretraining"]):
                raise ValueError("its SHA-256 is another")
            metadata = json.loads(kept["pretraining"])
            for name, parameter in self.model.named_parameters():
                parameter.data.copy_(tensors[f"weight.{name}"])
                step, *moments = (tensors[f"{key}.{name}"] for key in MOMENTS)
                moments = [moment.to(parameter.device) for moment in moments]
                self.optimizer.state[parameter] = dict(zip(MOMENTS, (step, *moments), strict=True))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{path}: broken checkpoint ({error}); start again with another --output") from None
        for group, saved in zip(self.optimizer.param_groups, metadata["groups"], strict=True):
            group.update(saved | {"betas": tuple(saved["betas"])})
        self.schedule.load_state_dict(metadata["schedule"])
        return metadata["state"]


def say(held_out: Mapping[str, float], when: str) -> str:
    """What `Pretraining.evaluate` found, in a line."""
    perplexity, bits = held_out["held_out_perplexity"], held_out["bits_per_byte"]
    return f"{when}: held-out perplexity {perplexity:.2f}, {bits:.3f} bits a byte"


def _sha256(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
