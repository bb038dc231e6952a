"""Seconds a question for each way of scoring, in turn on the same questions, on this machine.

    pip install -r benchmarks/requirements.txt
    python benchmarks/scoring_speed.py --model RUN --onnx model.onnx model.int8.onnx --data ../shared/casehold \\
        --llama-perplexity llama.cpp/build/bin/llama-perplexity --gguf f32.gguf f16.gguf q8_0.gguf

Sides: one padded batch of a question's candidates through Hugging Face; the same with the prompt's keys and values
reused; lm-evaluation-harness, where it is installed; llama.cpp with each --gguf file; the packed pass in PyTorch; and
each --onnx file in onnxruntime from Python and in the C++ scorer. In a round every side scores the same questions, one
side after the other; what comes out are medians over the rounds. Loading is not timed. On a GPU, PyTorch's sides run
there.
"""

import argparse
import importlib.util
import statistics
import sys
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import sides
from lib.cli import HelpFormatter, positive_int
from lib.errors import InputError, run_script
from lib.models.device import default_device
from lib.models.loading import DTYPES, load_model
from lib.questions.data import load_split
from lib.questions.prompt import encode_questions
from lib.questions.prompt_config import default_contract
from tables import machine, print_table, write_json

AGREEMENT = 2e-3  # nats, between log-probs of the exact sides in fp32


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="run or model folder")
    parser.add_argument("--onnx", nargs="*", type=Path, default=[], metavar="FILE", help="exports of that model")
    parser.add_argument("--llama-perplexity", type=Path, metavar="PROGRAM", help="llama.cpp's program of that name")
    parser.add_argument("--gguf", nargs="*", type=Path, default=[], metavar="FILE", help="that model for llama.cpp")
    parser.add_argument("--data", required=True, help="folder or file with questions, test split")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="of PyTorch's sides")
    parser.add_argument("--rounds", type=positive_int, default=10, help="rounds, after one that is not counted")
    parser.add_argument("--questions", type=positive_int, default=4, help="questions a round, new ones each time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args(argv)
    if args.gguf and not args.llama_perplexity:
        parser.error("--gguf needs --llama-perplexity")

    needed = args.questions * (args.rounds + 1)
    data = load_split(args.data, "test", limit=needed)
    if len(data.questions) < needed:
        raise InputError(f"{data.source}: fewer than {needed} questions; lower --rounds or --questions")
    loaded = load_model(args.model, DTYPES[args.precision], merge=True)
    loaded.model.to(default_device())
    prompt = loaded.prompt or default_contract(data.default_template, loaded.tokenizer)
    encoded = encode_questions(data.questions, loaded.tokenizer, prompt)
    compared = all_sides(args, loaded)
    for number in tqdm(range(args.rounds + 1), unit="round"):
        run_round(compared, encoded[number * args.questions :][: args.questions], args.precision, counted=number > 0)
    report(compared, args)
    return 0


def all_sides(args: argparse.Namespace, loaded) -> list[sides.Side]:
    model, config = loaded.model, loaded.model.config
    compared = [sides.hugging_face(model), sides.hugging_face_cached(model)]
    if importlib.util.find_spec("lm_eval"):
        compared.append(sides.lm_eval(model, loaded.tokenizer))
    else:
        print("lm-evaluation-harness is missing; pip install -r benchmarks/requirements.txt")
    compared += [sides.llama_cpp(args.llama_perplexity, gguf, config) for gguf in args.gguf]
    compared.append(sides.packed_pytorch(model))
    for make in (sides.onnx_python, sides.cpp_scorer):
        compared += [make(path, config) for path in args.onnx]
    return compared


def run_round(compared: list[sides.Side], questions: sides.Questions, precision: str, counted: bool) -> None:
    """Time every side on `questions`; raises InputError where an exact side gives other log-probs than the first."""
    first: torch.Tensor | None = None
    for side in compared:
        logprobs = side.run(questions, counted)
        if logprobs is None:
            continue
        values = torch.tensor([value for row in logprobs for value in row])
        first = values if first is None else first
        difference = (values - first).abs().max().item()
        if precision == "fp32" and side.exact and not difference <= AGREEMENT:
            raise InputError(f"{side.name}: log-probs differ by {difference:.2g} from those of {compared[0].name}")


def report(compared: list[sides.Side], args: argparse.Namespace) -> None:
    medians = [statistics.median(side.seconds) for side in compared]
    print(f"\n{args.rounds} rounds of {args.questions} questions, PyTorch in {args.precision}; {machine()}")
    rows = [
        [
            side.name,
            f"{median:.3f}",
            f"{min(side.seconds):.3f}",
            f"{max(side.seconds):.3f}",
            f"{statistics.median(side.gflop_per_second):.0f}",
            f"{medians[0] / median:.1f}",
        ]
        for side, median in zip(compared, medians, strict=True)
    ]
    print_table(["side", "s a question", "lowest", "highest", "GFLOP/s", "times as fast"], rows)
    # Each of ours against each of theirs: the median over the rounds of the ratio within one.
    scorers = [side for side in compared if side.name.startswith("C++")]
    others = [side for side in compared if not side.name.startswith("C++")]
    ratios = [
        [other.name, *(f"{ratio(side, other):.3f} (1/{1 / ratio(side, other):.1f})" for side in scorers)]
        for other in others
    ]
    if scorers:
        print_table(["time of", *(f"{side.name}, to its time" for side in scorers)], ratios)
    figures = [
        {"side": side.name, "seconds": side.seconds, "gflop_per_second": side.gflop_per_second} for side in compared
    ]
    write_json(args.json, {"precision": args.precision, "questions": args.questions, "sides": figures})


def ratio(one: sides.Side, other: sides.Side) -> float:
    return statistics.median(mine / theirs for mine, theirs in zip(one.seconds, other.seconds, strict=True))


if __name__ == "__main__":
    run_script(main)
