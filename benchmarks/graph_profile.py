"""Where the time of an exported graph goes: onnxruntime's own profile, by operator.

    python benchmarks/graph_profile.py --model RUN --onnx model.onnx model.int8.onnx --data ../shared/casehold

Products with weights stand apart from all else, with their work counted by hand: what is left of a question's time when
they ran at the machine's limit (`limit.py`) is the most that a better graph could win.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import flops
import sides
from lib.cli import HelpFormatter, positive_int
from lib.errors import run_script
from lib.export.files import read_metadata
from lib.packed.pack import pack
from lib.questions.prompt import EncodedQuestion
from tables import machine, print_table, write_json

# onnxruntime's operators for a product of two matrices; with fp32 weights and in 8-bit integers.
PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger")
SHOWN = 8  # operators


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="run or model folder: its architecture and prompt")
    parser.add_argument("--onnx", nargs="+", type=Path, required=True, metavar="FILE", help="exports of that model")
    parser.add_argument("--data", required=True, help="folder or file with questions, test split")
    parser.add_argument("--questions", type=positive_int, default=12, help="questions, after one that is not counted")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args(argv)

    config, encoded = sides.test_questions(args.model, args.data, args.questions + 1)
    work = sum(product.gflop for item in encoded[1:] for product in flops.packed_products(config, item))
    print(f"\n{args.questions} questions; {machine()}")
    measured = {}
    for path in args.onnx:
        name = f"onnxruntime, {sides.precision(read_metadata(path)['quantization'])}"
        measured[name] = profile(path, encoded)
        report(name, measured[name], work, args.questions)
    write_json(args.json, {"questions": args.questions, "seconds": measured})
    return 0


def profile(path: Path, encoded: list[EncodedQuestion]) -> dict[str, float]:
    """Seconds of each operator over all questions but the first, as onnxruntime's profiler counts them."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for item in encoded:
            session.run(None, {name: values.numpy() for name, values in pack([item]).tensors().items()})
        events = json.loads(Path(session.end_profiling()).read_text())
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")
    seconds = Counter()
    for event in events:
        if event["name"].endswith("_kernel_time") and event["ts"] >= runs[1]:
            seconds[event["args"]["op_name"]] += event["dur"] / 1e6
    return dict(seconds.most_common())


def report(name: str, seconds: dict[str, float], work: float, questions: int) -> None:
    products = sum(spent for operator, spent in seconds.items() if operator in PRODUCTS)
    total = sum(seconds.values())
    others = [(operator, spent) for operator, spent in seconds.items() if operator not in PRODUCTS]
    lines = [(f"products with weights, {work / products:,.0f} GFLOP/s", products), *others[:SHOWN]]
    lines += [("all else", sum(spent for _, spent in others[SHOWN:])), ("together", total)]
    rows = [[title, f"{1000 * spent / questions:.1f}", f"{100 * spent / total:.1f} %"] for title, spent in lines]
    print_table([name, "ms a question", "share"], rows)


if __name__ == "__main__":
    run_script(main)
