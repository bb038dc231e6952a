"""What each way of quantising the scoring graph changes, and what it costs, against fp32 on the same questions.

    python benchmarks/fidelity.py --model RUN --onnx model.onnx --data ../shared/casehold

Ways: 8-bit integers with a scale of activations a row, in one pass or two (ours, `export.py --quantize`), or one a
tensor as onnxruntime's own quantiser has it; and 8 or 4 bits in blocks of 32 weights. The margin of a choice is its
log-prob's lead over the second best, in fp32. Every way is timed in turn with fp32, question by question. With
--reference choices are by the log-ratio, both graphs quantised the same way. Random weights say nothing of choices:
take a trained model for those.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_int
from lib.errors import run_script
from lib.export.int8 import quantize, use_matmul
from lib.export.quantization import compare_quantized, margins_between
from lib.export.session import onnx_scorer
from lib.models.loading import load_model
from lib.packed.pack import pack
from lib.questions.data import load_split
from lib.questions.prompt import EncodedQuestion, encode_questions
from lib.questions.prompt_config import default_contract
from tables import machine, print_table, write_json

BLOCK = 32

Logprobs = list[np.ndarray]  # [K] for each question

# Each takes the fp32 graph and a folder.
WAYS: dict[str, Callable[[Path, Path], ir.Model]] = {
    "int8 (ours)": lambda source, _: quantize(source, "int8"),
    "int8x2 (ours)": lambda source, _: quantize(source, "int8x2"),
    "int8, activations a scale a tensor": lambda source, folder: by_tensor(source, folder),
    "8 bits in blocks of 32": lambda source, _: in_blocks(source, 8),
    "4 bits in blocks of 32": lambda source, _: in_blocks(source, 4),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="run or model folder")
    parser.add_argument("--onnx", required=True, type=Path, metavar="FILE", help="its export in fp32")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="the reference's export in fp32")
    parser.add_argument("--data", required=True, help="folder or file with questions, test split")
    parser.add_argument("--limit", type=positive_int, default=40, help="questions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args(argv)
    logging.disable(logging.INFO)  # the quantisers print a line for every node

    data = load_split(args.data, "test", limit=args.limit)
    loaded = load_model(args.model, torch.float32)
    prompt = loaded.prompt or default_contract(data.default_template, loaded.tokenizer)
    encoded = encode_questions(data.questions, loaded.tokenizer, prompt)
    del loaded
    rows, figures = [], {}
    for name, make in WAYS.items():
        exact, quantized, seconds, megabytes = measure(make, args.onnx, encoded, name)
        if args.reference:
            base, quantized_base, *_ = measure(make, args.reference, encoded, f"{name}, reference")
            exact, quantized = log_ratios(exact, base), log_ratios(quantized, quantized_base)
        change = compare_quantized({"sum": exact}, {"sum": quantized}, encoded)
        choices = change.choices["sum"]
        ratio = statistics.median(mine / theirs for theirs, mine in seconds)
        figures[name] = {"megabytes": megabytes, "times_fp32": ratio, **change.as_dict()}
        flips = [f"{flipped} of {total}" for *_, flipped, total in choices.flips]
        changes = [f"{value:.2g}" for value in (change.largest, change.mean, change.per_token)]
        rows.append([name, f"{megabytes:,.0f}", f"{ratio:.2f}", *changes, f"{choices.num_flips}", *flips])
    print(f"\n{len(encoded)} questions; {machine()}")
    bins = [margins_between(low, high) for low, high, *_ in choices.flips]
    header = ["way", "MB", "time of fp32's", "largest change", "mean", "a token", "choices that flip", *bins]
    print_table(header, rows)
    write_json(args.json, {"questions": len(encoded), "ways": figures})
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


def log_ratios(policy: Logprobs, reference: Logprobs) -> Logprobs:
    return [one - other for one, other in zip(policy, reference, strict=True)]


def measure(
    make: Callable, source: Path, encoded: Sequence[EncodedQuestion], name: str
) -> tuple[Logprobs, Logprobs, list[tuple[float, float]], float]:
    """Log-probs of the fp32 graph and of its quantised form, both times of every question, and the form's megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        ir.save(make(source, Path(folder)), path, external_data="quantized.data")
        megabytes = sum(file.stat().st_size for file in (path, path.with_suffix(".data"))) / 1e6
        graphs = [onnx_scorer(file) for file in (source, path)]
        logprobs, seconds = ([], []), []
        for item in tqdm(encoded, desc=name, unit="question"):
            times = []
            for run, rows in zip(graphs, logprobs, strict=True):
                began = time.perf_counter()
                rows.append(run(pack([item]))[0])
                times.append(time.perf_counter() - began)
            seconds.append(tuple(times))
    return *logprobs, seconds, megabytes


if __name__ == "__main__":
    run_script(main)
