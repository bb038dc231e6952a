"""Milliseconds a packed token with 100 short candidates against 5 endings, in turn, on this machine.

    python benchmarks/candidate_costs.py --model MODEL --onnx model.onnx --data ../shared/casehold

The passages are the same on both sides; the short candidates are the 100 commonest pairs of words in the endings of the
training split that have at most 6 tokens, the end token included. Sides: a step of S-DPO (forward and backward, LoRA on
all linear layers), the packed pass in PyTorch, onnxruntime, and the C++ scorer with each --onnx file. Loading is not
timed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_int
from lib.data import Question, load_split
from lib.errors import InputError, run_script
from lib.losses import LossOptions, sdpo
from lib.models import load_model, make_policy
from lib.onnx_check import onnx_scorer
from lib.pack import pack
from lib.prompt import EncodedQuestion, PromptConfig, encode_questions
from lib.scoring import PackedScorer

SCORER = Path(__file__).resolve().parent.parent / "cpp_scorer" / "score"
NUM_NAMES, MAX_TOKENS = 100, 6


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="run or model folder")
    parser.add_argument("--onnx", nargs="*", default=[], metavar="FILE", help="exports of that model")
    parser.add_argument("--data", required=True, help="folder with questions, train and test split")
    parser.add_argument("--rounds", type=positive_int, default=5, help="rounds, after one that is not counted")
    parser.add_argument("--questions", type=positive_int, default=2, help="questions a round, new ones each time")
    args = parser.parse_args(argv)

    data = load_split(args.data, "test", limit=args.questions * (args.rounds + 1))
    loaded = load_model(args.model, torch.float32, merge=True)
    prompt = loaded.prompt or PromptConfig(data.default_template)
    names = class_names(load_split(args.data, "train").questions, loaded.tokenizer)
    rewards = tuple(float(index == 0) for index in range(NUM_NAMES))
    classified = [replace(question, endings=names, rewards=rewards, label=0) for question in data.questions]
    kinds = [encode_questions(questions, loaded.tokenizer, prompt) for questions in (data.questions, classified)]

    scorer = PackedScorer(loaded.model)
    sides: dict[str, Callable] = {"PyTorch, scoring": lambda items: scored(scorer, items)}
    for path in args.onnx:
        run = onnx_scorer(Path(path))
        sides[f"onnxruntime, {Path(path).name}"] = lambda items, run=run: [run(pack([item])) for item in items]
        sides[f"C++, {Path(path).name}"] = cpp_scorer(path)
    costs = measure(sides, kinds, args)
    policy = PackedScorer(make_policy(loaded.model, 8, 32, 0.1, checkpointing=False))
    costs |= measure({"PyTorch, training": lambda items: trained(policy, items)}, kinds, args)

    tokens = [statistics.fmean(item.num_tokens for item in items) for items in kinds]
    rows = [statistics.fmean(sum(map(len, item.ending_ids)) for item in items) for items in kinds]
    print(
        f"\n{args.rounds} rounds of {args.questions} questions; 5 endings: {tokens[0]:.0f} tokens a question, ", end=""
    )
    print(f"{rows[0]:.0f} scored rows; {NUM_NAMES} names: {tokens[1]:.0f} and {rows[1]:.0f}\n")
    print("| side | ms a token, 5 endings | 100 names | ratio | lowest | highest |\n|---|---|---|---|---|---|")
    for name, pairs in costs.items():
        few, many = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(one[1] / one[0] for one in pairs)
        print(f"| {name} | {few:.2f} | {many:.2f} | {statistics.median(ratios):.2f} | ", end="")
        print(f"{ratios[0]:.2f} | {ratios[-1]:.2f} |")
    return 0


def class_names(questions: Sequence[Question], tokenizer) -> tuple[str, ...]:
    pairs: Counter[str] = Counter()
    for question in questions:
        for ending in question.endings:
            pairs.update(" ".join(pair) for pair in pairwise(ending.split()))
    short = (pair for pair, _ in pairs.most_common() if len(tokenizer(f" {pair}")["input_ids"]) < MAX_TOKENS)
    names = tuple(islice(short, NUM_NAMES))
    if len(names) < NUM_NAMES:
        raise InputError("the training split has too few endings to take 100 names from")
    return names


def measure(sides: dict[str, Callable], kinds: Sequence[list[EncodedQuestion]], args) -> dict[str, list[list[float]]]:
    """For each side and counted round, milliseconds a token of each kind."""
    costs = {name: [] for name in sides}
    for number in tqdm(range(args.rounds + 1), unit="round"):
        for name, score in sides.items():
            pair = []
            for items in kinds:
                items = items[number * args.questions : (number + 1) * args.questions]
                began = time.perf_counter()
                score(items)
                pair.append(1e3 * (time.perf_counter() - began) / sum(item.num_tokens for item in items))
            if number:
                costs[name].append(pair)
    return costs


@torch.inference_mode()
def scored(scorer: PackedScorer, items: Sequence[EncodedQuestion]) -> None:
    for item in items:
        scorer(pack([item]))


def trained(scorer: PackedScorer, items: Sequence[EncodedQuestion]) -> None:
    """Forward and backward of S-DPO on each question with all its candidates."""
    scorer.train()
    for item in items:
        logprobs = scorer(pack([item]))
        rewards = torch.tensor([item.question.rewards], dtype=torch.float64)
        scores, mask = 0.1 * (logprobs - logprobs.detach()), torch.ones_like(rewards, dtype=torch.bool)
        sdpo(scores, mask, rewards, rewards.mean(1), LossOptions()).sum().backward()
        scorer.zero_grad(set_to_none=True)


def cpp_scorer(path: str) -> Callable:
    """The program, as a process that is fed a round's questions and answers them."""
    process = subprocess.Popen([SCORER, "--model", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def score(items: Sequence[EncodedQuestion]) -> None:
        for item in items:
            row = {"context": item.question.fields["context"], "endings": item.question.endings}
            process.stdin.write(json.dumps(row).encode() + b"\n")
        process.stdin.flush()
        for _ in items:
            if "logprobs" not in json.loads(process.stdout.readline()):
                raise InputError(f"{SCORER.name}: a question was not scored")

    return score


if __name__ == "__main__":
    run_script(main)
