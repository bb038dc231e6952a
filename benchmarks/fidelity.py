"""What each way of quantising the scoring graph changes, and what it costs, against fp32 on the same questions.

    python benchmarks/fidelity.py --model RUN --onnx model.onnx --data ../shared/casehold

Ways: 8-bit integers with a scale of activations a row, as export.py --quantize makes them (int8, int8x2), or one a
tensor, as onnxruntime's own quantiser has it; and 8 or 4 bits in blocks of 32 weights. Choices are by pmi, with
--reference by the log-ratio, both graphs quantised the same way; a choice's margin is its lead over the second best, in
fp32. Every way is timed in turn with fp32, question by question; ours are calibrated on validation questions. Random
weights say nothing of choices: take a trained model for those.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_int
from lib.errors import run_script
from lib.evaluation.metrics import bootstrap_interval, percent_interval
from lib.export.calibration import QUESTIONS
from lib.export.check import compute_logprobs
from lib.export.int8 import quantize, use_matmul
from lib.export.quantization import compare_quantized, margins_between, relative_to
from lib.export.session import onnx_scorer
from lib.models.loading import load_model
from lib.packed.inference import Logprobs
from lib.packed.neutral import neutral_logprobs
from lib.packed.pack import pack
from lib.questions.data import load_split
from lib.questions.prompt import EncodedQuestion, encode_questions
from lib.questions.prompt_config import PromptConfig, default_contract
from tables import machine, print_table, write_json

BLOCK = 32


@dataclass(frozen=True)
class Work:
    """The questions, those to calibrate on, and what the neutral prompt is made of."""

    encoded: list[EncodedQuestion]
    calibration: list[EncodedQuestion]
    tokenizer: PreTrainedTokenizerBase
    prompt: PromptConfig


# Each takes the fp32 graph, a folder, and questions to calibrate on.
WAYS: dict[str, Callable[[Path, Path, Sequence[EncodedQuestion]], ir.Model]] = {
    "int8": lambda source, _, encoded: quantize(source, "int8", encoded),
    "int8x2": lambda source, _, encoded: quantize(source, "int8x2", encoded),
    "by-tensor": lambda source, folder, _: by_tensor(source, folder),
    "8-bit-blocks": lambda source, *_: in_blocks(source, 8),
    "4-bit-blocks": lambda source, *_: in_blocks(source, 4),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="run or model folder")
    parser.add_argument("--onnx", required=True, type=Path, metavar="FILE", help="its export in fp32")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="the reference's export in fp32")
    parser.add_argument("--data", required=True, help="folder with questions, validation and test split")
    parser.add_argument("--limit", type=positive_int, default=40, help="questions")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what is compared with fp32")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args(argv)
    logging.disable(logging.INFO)  # the quantisers print a line for every node

    data = load_split(args.data, "test", limit=args.limit)
    loaded = load_model(args.model, torch.float32)
    prompt = loaded.prompt or default_contract(data.default_template, loaded.tokenizer)
    work = Work(
        encode_questions(data.questions, loaded.tokenizer, prompt),
        encode_questions(load_split(args.data, "validation", limit=QUESTIONS).questions, loaded.tokenizer, prompt),
        loaded.tokenizer,
        prompt,
    )
    del loaded
    rows, figures = [], {}
    for name in args.ways:
        exact, quantized, seconds, megabytes = measure(WAYS[name], args.onnx, work, name)
        score = "pmi"
        if args.reference:
            base, quantized_base, *_ = measure(WAYS[name], args.reference, work, f"{name}, reference")
            exact, quantized = (
                {"sum": mine["sum"], "reward": relative_to(mine["sum"], theirs["sum"])}
                for mine, theirs in ((exact, base), (quantized, quantized_base))
            )
            score = "reward"
        change = compare_quantized(exact, quantized, work.encoded)
        choices = change.choices[score]
        ratio = statistics.median(mine / theirs for theirs, mine in seconds)
        moved = np.abs(np.concatenate(exact[score]) - np.concatenate(quantized[score]))
        paired = np.repeat([-1, 1, 0], [choices.lost, choices.won, choices.num_choices - choices.lost - choices.won])
        interval = bootstrap_interval(paired)
        figures[name] = {"megabytes": megabytes, "times_fp32": ratio, "interval": interval, **change.as_dict()}
        flips = [f"{flipped} of {total}" for *_, flipped, total in choices.flips]
        accuracy = f"{100 * paired.mean():+.1f} {percent_interval(interval, signed=True)}"
        changes = [f"{change.per_token:.2g}", f"{np.quantile(moved, 0.95):.2g}", accuracy, f"{choices.num_flips}"]
        rows.append([name, f"{megabytes:,.0f}", f"{ratio:.2f}", *changes, *flips])
    print(f"\n{len(work.encoded)} questions, choices by {score}; {machine()}")
    bins = [margins_between(low, high) for low, high, *_ in choices.flips]
    header = [
        "way",
        "MB",
        "time of fp32's",
        "a token",
        f"95 % of {score} within",
        "accuracy",
        "choices that flip",
        *bins,
    ]
    print_table(header, rows)
    write_json(args.json, {"questions": len(work.encoded), "ways": figures})
    return 0


def by_tensor(source: Path, folder: Path) -> ir.Model:
    """One scale for all activations of a product, found as they come; a scale a channel of weights."""
    graph = ir.external_data.load_to_model(ir.load(source))
    use_matmul(graph.graph)
    ir.save(graph, folder / "products.onnx", external_data="products.data")
    quantize_dynamic(
        folder / "products.onnx",
        folder / "by_tensor.onnx",
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        use_external_data_format=True,
        extra_options={"MatMulConstBOnly": True},
    )
    return ir.load(folder / "by_tensor.onnx")


def in_blocks(source: Path, bits: int) -> ir.Model:
    """Weights of the products in blocks with a scale each, unpacked for products that take 8-bit activations."""
    graph = ir.external_data.load_to_model(ir.load(source))
    use_matmul(graph.graph)
    quantizer = MatMulNBitsQuantizer(
        ir.to_proto(graph), bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    return ir.from_proto(quantizer.model.model)


def measure(
    make: Callable, source: Path, work: Work, name: str
) -> tuple[dict[str, Logprobs], dict[str, Logprobs], list[tuple[float, float]], float]:
    """Log-probs and pmi of the fp32 graph and of its quantised form, both times of every question, and the form's
    megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        ir.save(make(source, Path(folder), work.calibration), path, external_data="quantized.data")
        megabytes = sum(file.stat().st_size for file in (path, path.with_suffix(".data"))) / 1e6
        graphs = [onnx_scorer(file) for file in (source, path)]
        logprobs, seconds = ([], []), []
        for item in tqdm(work.encoded, desc=name, unit="question"):
            times = []
            for run, rows in zip(graphs, logprobs, strict=True):
                began = time.perf_counter()
                rows.append(run(pack([item]))[0])
                times.append(time.perf_counter() - began)
            seconds.append(tuple(times))
        scores = []
        for run, rows in zip(graphs, logprobs, strict=True):
            score = partial(compute_logprobs, run, description="neutral prompt")
            neutral = neutral_logprobs(work.encoded, work.tokenizer, work.prompt, score)
            scores.append({"sum": rows, "pmi": relative_to(rows, neutral)})
    return *scores, seconds, megabytes


if __name__ == "__main__":
    run_script(main)
