"""Seconds a question for each way of scoring, in turn on the same questions, on this machine.

    python benchmarks/scoring_speed.py --model RUN --onnx model.onnx model.int8.onnx --data ../shared/casehold

Sides: one padded batch of a question's candidates through Hugging Face (fp32, all logits), the packed pass in PyTorch
(fp32), and the C++ scorer with each --onnx file. In a round every side scores the same questions, one side after the
other; what comes out are medians over the rounds, and their ratio to the first side. Loading is not timed.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_int
from lib.data import load_split
from lib.errors import InputError, run_script
from lib.models import load_model
from lib.onnx_files import read_metadata
from lib.pack import pack
from lib.paths import atomic_file
from lib.prompt import EncodedQuestion, PromptConfig, encode_questions
from lib.scoring import PackedScorer

SCORER = Path(__file__).resolve().parent.parent / "cpp_scorer" / "score"
AGREEMENT = 2e-3  # nats, between log-probs of the fp32 sides

Logprobs = list[list[float]]


@dataclass
class Side:
    """One way of scoring. gflop: the work for one question, in 1e9 floating-point operations of matrix products."""

    name: str
    score: Callable[[Sequence[EncodedQuestion]], Logprobs]
    gflop: Callable[[EncodedQuestion], float]
    exact: bool = True
    seconds: list[float] = field(default_factory=list)  # a question, for each round
    gflop_per_second: list[float] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="run or model folder")
    parser.add_argument("--onnx", nargs="*", default=[], metavar="FILE", help="exports of that model")
    parser.add_argument("--data", required=True, help="folder or file with questions, test split")
    parser.add_argument("--rounds", type=positive_int, default=5, help="rounds, after one that is not counted")
    parser.add_argument("--questions", type=positive_int, default=4, help="questions a round, new ones each time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args(argv)

    needed = args.questions * (args.rounds + 1)
    data = load_split(args.data, "test", limit=needed)
    if len(data.questions) < needed:
        raise InputError(f"{data.source}: fewer than {needed} questions; lower --rounds or --questions")
    loaded = load_model(args.model, torch.float32, merge=True)
    encoded = encode_questions(data.questions, loaded.tokenizer, loaded.prompt or PromptConfig(data.default_template))
    sides = [hugging_face(loaded.model), packed_pytorch(loaded.model)]
    sides += [cpp_scorer(path, loaded.model) for path in args.onnx]
    for number in tqdm(range(args.rounds + 1), unit="round"):
        run_round(sides, encoded[number * args.questions : (number + 1) * args.questions], counted=number > 0)
    report(sides, args)
    return 0


def run_round(sides: Sequence[Side], questions: Sequence[EncodedQuestion], counted: bool) -> None:
    """Time every side on `questions`; raises InputError where an fp32 side gives other log-probs than the first."""
    first: torch.Tensor | None = None
    for side in sides:
        began = time.perf_counter()
        logprobs = side.score(questions)
        elapsed = time.perf_counter() - began
        if counted:
            side.seconds.append(elapsed / len(questions))
            side.gflop_per_second.append(sum(map(side.gflop, questions)) / elapsed)
        values = torch.tensor([value for row in logprobs for value in row])
        first = values if first is None else first
        difference = (values - first).abs().max().item()
        if side.exact and not difference <= AGREEMENT:
            raise InputError(f"{side.name}: log-probs differ by {difference:.2g} from those of {sides[0].name}")


def hugging_face(model: torch.nn.Module) -> Side:
    """Each question's candidates as rows of one padded batch, prompt and all, as harnesses do it."""

    def score(questions: Sequence[EncodedQuestion]) -> Logprobs:
        return [score_one(item) for item in questions]

    @torch.inference_mode()
    def score_one(item: EncodedQuestion) -> list[float]:
        rows = [torch.tensor([*item.prompt_ids, *ids]) for ids in item.ending_ids]
        input_ids = pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        logprobs = logits[:, :-1].log_softmax(-1).gather(2, input_ids[:, 1:, None]).squeeze(2)
        begin = len(item.prompt_ids) - 1
        return [row[begin : length - 1].sum().item() for row, length in zip(logprobs, lengths.tolist(), strict=True)]

    def gflop(item: EncodedQuestion) -> float:
        length = len(item.prompt_ids) + max(map(len, item.ending_ids))
        return len(item.ending_ids) * forward_gflop(model.config, length, length)

    return Side("Hugging Face, one padded batch", score, gflop)


def packed_pytorch(model: torch.nn.Module) -> Side:
    scorer = PackedScorer(model)

    @torch.inference_mode()
    def score(questions: Sequence[EncodedQuestion]) -> Logprobs:
        return [scorer(pack([item]))[0].tolist() for item in questions]

    return Side("packed pass, PyTorch", score, lambda item: packed_gflop(model.config, item))


def cpp_scorer(path: str, model: torch.nn.Module) -> Side:
    """The program, as a process that is fed a round's questions and answers them."""
    quantization = read_metadata(Path(path))["quantization"]
    process = subprocess.Popen([SCORER, "--model", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def score(questions: Sequence[EncodedQuestion]) -> Logprobs:
        for item in questions:
            row = {"context": item.question.fields["context"], "endings": item.question.endings}
            process.stdin.write(json.dumps(row).encode() + b"\n")
        process.stdin.flush()
        return [json.loads(process.stdout.readline())["logprobs"] for _ in questions]

    name = "C++ scorer, " + ("fp32" if quantization == "none" else quantization)
    return Side(name, score, lambda item: packed_gflop(model.config, item), exact=quantization == "none")


def packed_gflop(config, item: EncodedQuestion) -> float:
    return forward_gflop(config, item.num_tokens, sum(map(len, item.ending_ids)))


def forward_gflop(config, num_tokens: int, num_projected: int) -> float:
    """Operations of the matrix products of one row of `num_tokens`, two for each multiply and add: linear layers,
    attention's two products over all pairs, and the projection of `num_projected` rows."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    width = getattr(config, "head_dim", None) or hidden // heads
    attention = 2 * hidden * heads * width + 2 * hidden * config.num_key_value_heads * width
    layer = num_tokens * (attention + 3 * hidden * config.intermediate_size) + 2 * num_tokens**2 * heads * width
    return 2 * (config.num_hidden_layers * layer + num_projected * hidden * config.vocab_size) / 1e9


def report(sides: Sequence[Side], args: argparse.Namespace) -> None:
    """Print the table as markdown, and write the figures with --json."""
    baseline = statistics.median(sides[0].seconds)
    versions = {name: version(name) for name in ("torch", "transformers", "onnxruntime-gpu")}
    threads = torch.get_num_threads()
    about = f"{args.rounds} rounds of {args.questions} questions, {threads} threads, {platform.machine()}"
    print(f"\n{about}, " + ", ".join(f"{name} {number}" for name, number in versions.items()))
    print("\n| side | s a question | lowest | highest | GFLOP/s | times as fast |\n|---|---|---|---|---|---|")
    figures = []
    for side in sides:
        median = statistics.median(side.seconds)
        rate = statistics.median(side.gflop_per_second)
        figures.append({"side": side.name, "seconds": side.seconds, "gflop_per_second": side.gflop_per_second})
        spread = f"{median:.3f} | {min(side.seconds):.3f} | {max(side.seconds):.3f}"
        print(f"| {side.name} | {spread} | {rate:.0f} | {baseline / median:.1f} |")
    if args.json:
        with atomic_file(args.json) as temporary:
            temporary.write_text(json.dumps({"about": about, "versions": versions, "sides": figures}, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
