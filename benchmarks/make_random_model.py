"""Write a causal LM with the full Qwen2.5-0.5B architecture, random weights and a given tokenizer.

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

# Qwen/Qwen2.5-0.5B's config.json.
QWEN2_5_05B = dict(
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=32768,
    rope_theta=1000000.0,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    bos_token_id=151643,
    eos_token_id=151643,
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    model = Qwen2ForCausalLM(Qwen2Config(**QWEN2_5_05B, torch_dtype="float32"))
    with atomic_dir(args.output) as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(args.tokenizer).save_pretrained(folder)
    print(f"{args.output}: {model.num_parameters():,} parameters")
    return 0


if __name__ == "__main__":
    run_script(main)
