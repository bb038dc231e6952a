"""How the cost grows with negatives, prompt length, model size and threads: milliseconds a fed token, with figures.

    python benchmarks/growth.py --model .cache/random-0.5b --onnx model.onnx model.int8.onnx --data ../shared/casehold

Passages and endings are real; a question gets further negatives from the questions beside it, and a longer prompt from
the passages before it. Sides: each --onnx file in onnxruntime (in the C++ scorer for threads), the packed pass and a
step of S-DPO in PyTorch. Models of other sizes have random weights, and run in PyTorch alone.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import sides
from lib.cli import HelpFormatter, positive_int
from lib.errors import run_script
from lib.models.device import default_device
from lib.models.loading import DTYPES, load_model
from lib.paths import atomic_file
from lib.questions.data import load_split
from lib.questions.prompt import EncodedQuestion, encode_questions
from lib.questions.prompt_config import default_contract
from make_random_model import random_model
from tables import machine, print_table, write_json

NEGATIVES = (1, 2, 4, 8, 16)
LENGTHS = (128, 256, 512, 1024, 2048)
SMALL = ("0.05b", "0.15b", "0.3b", "0.5b")
LARGE = ("1.5b", "7b")  # where there is a GPU

# side, then size of what grows: milliseconds a fed token
Costs = dict[str, dict[float, list[float]]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="run or model folder")
    parser.add_argument("--onnx", nargs="*", type=Path, default=[], metavar="FILE", help="exports of that model")
    parser.add_argument("--data", required=True, help="folder or file with questions, test split")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="of PyTorch's sides")
    parser.add_argument("--rounds", type=positive_int, default=3, help="questions of every kind, after one not counted")
    parser.add_argument("--figure", type=Path, default=Path("growth.png"), metavar="FILE", help="where to draw it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args(argv)

    data = load_split(args.data, "test", limit=32)
    loaded = load_model(args.model, DTYPES[args.precision], merge=True)
    model = loaded.model.to(default_device())
    prompt = loaded.prompt or default_contract(data.default_template, loaded.tokenizer)
    encoded = encode_questions(data.questions, loaded.tokenizer, prompt)
    asked = encoded[: args.rounds + 1]
    by_negatives = {count: [with_negatives(item, encoded, count) for item in asked] for count in NEGATIVES}
    by_length = {length: [with_prompt(item, encoded, length) for item in asked] for length in LENGTHS}

    graphs = [sides.onnx_python(path, model.config) for path in args.onnx]
    growth: dict[str, Costs] = {"negatives": {}, "prompt tokens": {}, "threads": {}, "billion weights": {}}
    measure(graphs, by_negatives, growth["negatives"])
    measure(graphs, by_length, growth["prompt tokens"])
    for threads in range(1, torch.get_num_threads() + 1):
        limited = [sides.cpp_scorer(path, model.config, threads) for path in args.onnx]
        measure(limited, {threads: asked}, growth["threads"])
    for make in (sides.packed_pytorch, sides.packed_training):
        side = make(model)
        measure([side], by_negatives, growth["negatives"])
        measure([side], by_length, growth["prompt tokens"])
        for threads in range(1, torch.get_num_threads() + 1):
            with torch_threads(threads):
                measure([side], {threads: asked}, growth["threads"])
    del loaded, model, side
    device, sizes = ("cuda", (*SMALL, *LARGE)) if torch.cuda.is_available() else ("cpu", SMALL)
    for size in sizes:
        for make in (sides.packed_pytorch, sides.packed_training):
            side = make(random_model(size, DTYPES[args.precision], device))
            measure([side], {float(size.rstrip("b")): asked}, growth["billion weights"])
    report(growth, args)
    return 0


def with_negatives(item: EncodedQuestion, encoded: Sequence[EncodedQuestion], count: int) -> EncodedQuestion:
    """The question with `count` negatives: its own, then right endings of others."""
    own = [ids for index, ids in enumerate(item.ending_ids) if index != item.question.label]
    others = (other.ending_ids[other.question.label] for other in encoded if other is not item)
    endings = [item.ending_ids[item.question.label], *islice((ids for part in (own, others) for ids in part), count)]
    return replace(item, question=replace(item.question, label=0), ending_ids=endings)


def with_prompt(item: EncodedQuestion, encoded: Sequence[EncodedQuestion], length: int) -> EncodedQuestion:
    """The question with a prompt of `length` tokens: its own, after other questions' until that is reached."""
    before = [token for other in encoded if other is not item for token in other.prompt_ids]
    return replace(item, prompt_ids=[*before, *item.prompt_ids][-length:])


def measure(compared: list[sides.Side], kinds: dict[float, list[EncodedQuestion]], costs: Costs) -> None:
    """Time every side on a question of every kind in turn, and note milliseconds a fed token."""
    rounds = len(next(iter(kinds.values())))
    for number in tqdm(range(rounds), unit="round", desc=compared[0].name if compared else None):
        for kind, items in kinds.items():
            for side in compared:
                side.run([items[number]], counted=True)
                if number:
                    cost = 1e3 * side.seconds[-1] / items[number].num_tokens
                    costs.setdefault(side.name, {}).setdefault(kind, []).append(cost)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def report(growth: dict[str, Costs], args: argparse.Namespace) -> None:
    print(f"\n{args.rounds} questions of every kind, PyTorch in {args.precision}; {machine()}")
    print("\nMilliseconds a fed token, medians; in brackets the largest of a line over its smallest.")
    for what, costs in growth.items():
        kinds = sorted({kind for by_kind in costs.values() for kind in by_kind})
        rows = []
        for name, by_kind in costs.items():
            medians = {kind: statistics.median(values) for kind, values in by_kind.items()}
            spread = max(medians.values()) / min(medians.values())
            rows.append(
                [f"{name} ({spread:.2f})", *(f"{medians[kind]:.2f}" if kind in medians else "" for kind in kinds)]
            )
        print_table([what, *map(str, kinds)], rows)
    draw(growth, args.figure)
    write_json(args.json, {"precision": args.precision, "ms_a_fed_token": growth})


def draw(growth: dict[str, Costs], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5))
    colours: dict[str, str] = {}
    for axis, (what, costs) in zip(axes.flat, growth.items(), strict=True):
        for name, by_kind in costs.items():
            colour = colours.setdefault(name, f"C{len(colours)}")
            medians = [statistics.median(values) for values in by_kind.values()]
            axis.plot(list(by_kind), medians, "o-", label=name, color=colour)
        if what != "threads":
            axis.set_xscale("log")
        axis.set_xticks(list(by_kind), labels=[f"{kind:g}" for kind in by_kind], minor=False)
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_xlabel(what)
        axis.set_ylabel("ms a fed token")
        axis.grid(alpha=0.3)
    lines = {line.get_label(): line for axis in axes.flat for line in axis.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="lower center", ncols=3)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


if __name__ == "__main__":
    run_script(main)
