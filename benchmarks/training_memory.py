"""Peak memory of packed training steps, stage by stage, under a cap: does a model fit a card of that size?

    python benchmarks/training_memory.py --size 0.5b --cap-gb 4 --data ../shared/casehold \\
        --tokenizer ../shared/qwen2_tokenizer
    python benchmarks/training_memory.py --size 7b --cap-gb 24 --grad-checkpointing ...

Random weights, made where they are used; the longest of the first 512 training questions, 4 negatives, LoRA on all
linear layers, AdamW; the reference's log-probs are computed first, as train_sdpo.py does. On a GPU the allocator is
capped, and steps are timed by events; on a CPU the cap is compared with the peak resident set at the end.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_float, positive_int
from lib.errors import InputError, run_script
from lib.models.device import default_device, peak_memory_gb
from lib.models.loading import DTYPES, load_tokenizer, make_policy
from lib.packed.onednn_layers import use_onednn
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer
from lib.questions.data import load_split
from lib.questions.prompt import encode_questions
from lib.questions.prompt_config import default_contract
from lib.training.losses import LossOptions, sdpo
from make_random_model import SIZES, random_model
from tables import machine, print_table, write_json
from timing import stopwatch

POOL, STEPS = 512, 4  # questions that the longest are taken from; steps, the first of them not timed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="0.5b", help="architecture, in billions of weights")
    parser.add_argument("--cap-gb", type=positive_float, required=True, help="memory that may be used, 10^9 bytes")
    parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json")
    parser.add_argument("--data", required=True, help="folder or file with questions, train split")
    parser.add_argument("--batch-size", type=positive_int, default=2, help="questions a step")
    parser.add_argument("--precision", choices=DTYPES, default="bf16", help="of weights and products")
    parser.add_argument("--grad-checkpointing", action="store_true", help="recompute activations: less memory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args(argv)

    device = default_device()
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.cap_gb * 1e9 / total), device)
    data = load_split(args.data, "train", limit=POOL)
    tokenizer = load_tokenizer(args.tokenizer)
    encoded = encode_questions(data.questions, tokenizer, default_contract(data.default_template, tokenizer))
    longest = sorted(encoded, key=lambda item: -item.num_tokens)[: args.batch_size]
    try:
        stages, seconds = train(args, pack(longest).to(device), device)
    except torch.cuda.OutOfMemoryError:
        raise InputError(f"{args.size}: does not fit {args.cap_gb:g} GB; add --grad-checkpointing") from None

    print(f"\n{args.size}, {args.precision}, {args.batch_size} questions a step, up to {longest[0].num_tokens} tokens")
    print(f"{machine()}; {statistics.median(seconds):.3f} s a step")
    rows = [[name, f"{gigabytes:.2f}"] for name, gigabytes in stages.items()]
    print_table(["peak so far, once there are", "GB"], rows)
    write_json(args.json, {"size": args.size, "cap_gb": args.cap_gb, "gb": stages, "seconds": seconds})
    if stages["backward, optimizer"] > args.cap_gb:
        raise InputError(f"{args.size}: took {stages['backward, optimizer']:.2f} GB, more than {args.cap_gb:g}")
    return 0


def train(args: argparse.Namespace, batch, device: torch.device) -> tuple[dict[str, float], list[float]]:
    """Peak gigabytes after each stage of the first step, and the seconds of the steps after it."""
    stages = {}
    model = random_model(args.size, DTYPES[args.precision], device.type)
    stages["weights"] = peak_memory_gb(device)
    policy = use_onednn(make_policy(model, 8, 32, 0.1, checkpointing=args.grad_checkpointing))
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5)
    scorer = PackedScorer(policy)
    with torch.no_grad(), policy.disable_adapter():
        reference = scorer(batch)
    stages["adapter, reference's log-probs"] = peak_memory_gb(device)
    policy.train()
    rewards = torch.zeros_like(reference, dtype=torch.float64)
    rewards[:, 0] = 1
    mask = torch.ones_like(rewards, dtype=torch.bool)
    seconds = []
    for number in range(STEPS):
        stop = stopwatch(device)
        scores = 0.1 * (scorer(batch) - reference)
        if not number:
            stages["forward"] = peak_memory_gb(device)
        sdpo(scores, mask, rewards, rewards.mean(1), LossOptions()).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number:
            seconds.append(stop())
        else:
            stages["backward, optimizer"] = peak_memory_gb(device)
    return stages, seconds


if __name__ == "__main__":
    run_script(main)
