"""Write a causal LM with an architecture of the Qwen2.5 family, random weights and a given tokenizer.

    python benchmarks/make_random_model.py --output .cache/random-0.5b --tokenizer ../shared/qwen2_tokenizer

Speed and memory do not depend on the values of the weights, so this stands in where no hub can be reached.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter
from lib.errors import run_script
from lib.paths import atomic_dir

FAMILY = dict(
    vocab_size=151936,
    max_position_embeddings=32768,
    rope_theta=1000000.0,
    rms_norm_eps=1e-6,
    bos_token_id=151643,
    eos_token_id=151643,
)
# hidden size, layers, feed-forward's inner size, heads of queries, of keys and values; embedding tied to projection.
# 0.5b, 1.5b and 7b are Qwen2.5's own; the smaller ones have its proportions, but for the first, which is nearly all
# embedding.
SIZES = {
    "0.01b": (64, 2, 176, 4, 2, True),
    "0.05b": (256, 10, 1408, 4, 1, True),
    "0.15b": (512, 15, 2816, 8, 1, True),
    "0.3b": (704, 22, 3840, 11, 1, True),
    "0.5b": (896, 24, 4864, 14, 2, True),
    "1.5b": (1536, 28, 8960, 12, 2, True),
    "7b": (3584, 28, 18944, 28, 4, False),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--size", choices=SIZES, default="0.5b", help="weights, in billions")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    model = random_model(args.size, torch.float32)
    with atomic_dir(args.output) as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(args.tokenizer).save_pretrained(folder)
    print(f"{args.output}: {model.num_parameters():,} parameters")
    return 0


def random_model(size: str, dtype: torch.dtype, device: str = "cpu", **changes) -> Qwen2ForCausalLM:
    """A model with random weights of `dtype`, made on `device`; `changes` go over its configuration."""
    hidden, layers, inner, heads, key_heads, tied = SIZES[size]
    settings = FAMILY | dict(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=tied,
        dtype=dtype,
    )
    config = Qwen2Config(**settings | changes)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return Qwen2ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    run_script(main)
