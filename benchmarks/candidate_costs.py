"""Milliseconds a packed token with 100 short candidates against 5 endings, in turn, on this machine.

    python benchmarks/candidate_costs.py --model MODEL --onnx model.onnx --data ../shared/casehold

The passages are the same on both sides; the short candidates are the 100 commonest pairs of words in the endings of the
training split that have at most 6 tokens, the end token included. Sides: a step of S-DPO (forward and backward, LoRA on
all linear layers), the packed pass in PyTorch, onnxruntime, and the C++ scorer with each --onnx file. Loading is not
timed.
"""

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import flops
import sides
from lib.cli import HelpFormatter, positive_int
from lib.errors import InputError, run_script
from lib.models.loading import load_model
from lib.questions.data import Question, load_split
from lib.questions.prompt import EncodedQuestion, encode_questions
from lib.questions.prompt_config import default_contract
from tables import machine, print_table, write_json

NUM_NAMES, MAX_TOKENS = 100, 6


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="run or model folder")
    parser.add_argument("--onnx", nargs="*", type=Path, default=[], metavar="FILE", help="exports of that model")
    parser.add_argument("--data", required=True, help="folder with questions, train and test split")
    parser.add_argument("--rounds", type=positive_int, default=5, help="rounds, after one that is not counted")
    parser.add_argument("--questions", type=positive_int, default=2, help="questions a round, new ones each time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args(argv)

    data = load_split(args.data, "test", limit=args.questions * (args.rounds + 1))
    loaded = load_model(args.model, torch.float32, merge=True)
    prompt = loaded.prompt or default_contract(data.default_template, loaded.tokenizer)
    names = class_names(load_split(args.data, "train").questions, loaded.tokenizer)
    rewards = tuple(float(index == 0) for index in range(NUM_NAMES))
    classified = [replace(question, endings=names, rewards=rewards, label=0) for question in data.questions]
    kinds = [encode_questions(questions, loaded.tokenizer, prompt) for questions in (data.questions, classified)]

    model = loaded.model
    compared = [sides.packed_pytorch(model)]
    compared += [make(path, model.config) for path in args.onnx for make in (sides.onnx_python, sides.cpp_scorer)]
    costs = measure(compared, kinds, args)
    costs |= measure([sides.packed_training(model)], kinds, args)
    report(costs, kinds, args)
    return 0


def num_tokens(item: EncodedQuestion) -> int:
    return item.num_tokens


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


def measure(compared: Sequence[sides.Side], kinds: Sequence[list[EncodedQuestion]], args) -> dict[str, list]:
    """For each side and counted round, milliseconds a token of each kind."""
    costs = {side.name: [] for side in compared}
    for number in tqdm(range(args.rounds + 1), unit="round"):
        for side in compared:
            pair = []
            for items in kinds:
                items = items[number * args.questions :][: args.questions]
                side.run(items, counted=True)
                pair.append(1e3 * side.seconds[-1] * len(items) / sum(item.num_tokens for item in items))
            if number:
                costs[side.name].append(pair)
    return costs


def report(costs: dict[str, list], kinds: Sequence[list[EncodedQuestion]], args: argparse.Namespace) -> None:
    print(f"\n{args.rounds} rounds of {args.questions} questions; {machine()}\n")
    for name, items in zip(("5 endings", f"{NUM_NAMES} names"), kinds, strict=True):
        tokens, scored = (statistics.fmean(map(count, items)) for count in (num_tokens, flops.num_scored))
        print(f"{name}: {tokens:.0f} tokens and {scored:.0f} scored rows a question")
    rows = []
    for name, pairs in costs.items():
        few, many = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(one[1] / one[0] for one in pairs)
        shown = [few, many, statistics.median(ratios), ratios[0], ratios[-1]]
        rows.append([name, *(f"{value:.2f}" for value in shown)])
    print_table(["side", "ms a token, 5 endings", f"{NUM_NAMES} names", "ratio", "lowest", "highest"], rows)
    write_json(args.json, {"questions": args.questions, "ms_a_token": costs})


if __name__ == "__main__":
    run_script(main)
