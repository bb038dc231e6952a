"""How fast this machine's matrix products are at the model's shapes, and the share of it that the C++ scorer reaches.

    python benchmarks/limit.py --model RUN --onnx model.onnx model.int8.onnx --data ../shared/casehold

For every question, each product with a weight is measured alone, at the question's own sizes: in torch (fp32, bf16), in
onnxruntime (fp32; 8-bit integers) and in oneDNN, which PyTorch carries, with the weight in cache where it fits. The
limit is their rate together, each product by the faster of torch and onnxruntime. The scorer's rate counts the same
products and attention's, by hand; the rest of its time (norms, softmax, rotary embedding, tokenizing) counts as lost.
Measured in turn, question by question, with a pause before each library, so that the threads of the one before no
longer spin.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import flops
import sides
from lib.cli import HelpFormatter, positive_int
from lib.errors import run_script
from lib.export.graph import GRAPH_SLICE
from tables import machine, print_table, write_json

REPEATS = 5
PAUSE = 0.2  # seconds
# precision: the libraries that it is measured in
LIBRARIES = {"fp32": ("torch", "onnxruntime", "oneDNN"), "bf16": ("torch",), "int8": ("onnxruntime",)}
OF_LIMIT = ("torch", "onnxruntime")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="run or model folder: its architecture and prompt")
    parser.add_argument("--onnx", nargs="+", type=Path, default=[], metavar="FILE", help="exports of that model")
    parser.add_argument("--data", required=True, help="folder or file with questions, test split")
    parser.add_argument("--questions", type=positive_int, default=12, help="questions, after one that is not counted")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args(argv)

    config, encoded = sides.test_questions(args.model, args.data, args.questions + 1)
    scorers = [sides.cpp_scorer(path, config) for path in args.onnx]
    by_library = {(precision, library): [] for precision, libraries in LIBRARIES.items() for library in libraries}
    limits = {precision: [] for precision in LIBRARIES}
    for number, item in enumerate(tqdm(encoded, unit="question")):
        time.sleep(PAUSE)
        for side in scorers:
            side.run([item], counted=number > 0)
        products = sliced(flops.packed_products(config, item))
        work = sum(product.gflop for product in products)
        for precision, libraries in LIBRARIES.items():
            seconds = {library: measured(products, precision, library) for library in libraries}
            if number:
                of_limit = [each for library, each in seconds.items() if library in OF_LIMIT]
                limits[precision].append(work / sum(map(min, zip(*of_limit, strict=True))))
                for library, each in seconds.items():
                    by_library[precision, library].append(work / sum(each))
    report(by_library, limits, scorers, args)
    return 0


def sliced(products: list[flops.Product]) -> list[flops.Product]:
    """The projection in the slices that the graph has."""
    *others, projection = products
    slices = -(-projection.outer // GRAPH_SLICE)
    return [*others, replace(projection, count=slices, outer=projection.outer // slices)]


def measured(products: list[flops.Product], precision: str, library: str) -> list[float]:
    time.sleep(PAUSE)
    return [seconds_of(product, precision, library) for product in products]


def seconds_of(product: flops.Product, precision: str, library: str) -> float:
    """Median seconds of one such product, times how many there are."""
    make = {"torch": torch_product, "onnxruntime": onnx_product, "oneDNN": onednn_product}[library]
    run = make(product.inner, product.outer, precision)(product.rows)
    run()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return product.count * statistics.median(seconds)


@cache
def torch_product(inner: int, outer: int, precision: str) -> Callable[[int], Callable]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    weight = torch.randn(outer, inner, dtype=dtype)

    def of_rows(rows: int) -> Callable:
        states, result = torch.randn(rows, inner, dtype=dtype), torch.empty(rows, outer, dtype=dtype)
        return lambda: torch.mm(states, weight.T, out=result)

    return of_rows


@cache
def onednn_product(inner: int, outer: int, precision: str) -> Callable[[int], Callable]:
    weight = torch.randn(outer, inner)

    def of_rows(rows: int) -> Callable:
        states = torch.randn(rows, inner)
        return lambda: torch.ops.mkldnn._linear_pointwise(states, weight, None, "none", [], "")

    return of_rows


@cache
def onnx_product(inner: int, outer: int, precision: str) -> Callable[[int], Callable]:
    """A graph of one product, its weight packed when it is loaded, its output in memory that is there already."""
    integers = precision == "int8"
    weight = np.random.default_rng(0).standard_normal((inner, outer), np.float32)
    weight = (20 * weight).clip(-127, 127).astype(np.int8) if integers else weight
    kinds = (TensorProto.UINT8, TensorProto.INT32) if integers else (TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if integers else "MatMul", ["states", "weight"], ["result"])],
        "product",
        [helper.make_tensor_value_info("states", kinds[0], ["rows", inner])],
        [helper.make_tensor_value_info("result", kinds[1], ["rows", outer])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # as in the C++ scorer
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def of_rows(rows: int) -> Callable:
        states = np.random.default_rng(1).standard_normal((rows, inner), np.float32)
        states = (20 * states + 128).clip(0, 255).astype(np.uint8) if integers else states
        result = np.empty((rows, outer), np.int32 if integers else np.float32)
        binding = session.io_binding()
        binding.bind_ortvalue_input("states", onnxruntime.OrtValue.ortvalue_from_numpy(states))
        binding.bind_ortvalue_output("result", onnxruntime.OrtValue.ortvalue_from_numpy(result))
        return lambda: session.run_with_iobinding(binding)

    return of_rows


def report(by_library: dict, limits: dict[str, list[float]], scorers: list[sides.Side], args) -> None:
    print(f"\n{args.questions} questions; {machine()}")
    rows = [[f"{precision}, {library}", *spread(rates)] for (precision, library), rates in by_library.items()]
    rows.append([f"fp32, the faster of {' and '.join(OF_LIMIT)}", *spread(limits["fp32"])])
    print_table(["products at the model's shapes", "GFLOP/s", "lowest", "highest"], rows)
    rows, shares = [], {}
    for side in scorers:
        limit = limits["fp32" if side.exact else "int8"]
        shares[side.name] = [rate / best for rate, best in zip(side.gflop_per_second, limit, strict=True)]
        percent = [f"{100 * value:.0f} %" for value in (statistics.median(shares[side.name]), *ends(shares[side.name]))]
        onednn = statistics.median(by_library["fp32", "oneDNN"])
        of_onednn = f"{100 * statistics.median(side.gflop_per_second) / onednn:.0f} %" if side.exact else ""
        rows.append([side.name, *spread(side.gflop_per_second), *percent, of_onednn])
    header = ["scorer", "GFLOP/s", "lowest", "highest", "share of the limit", "lowest", "highest", "of oneDNN's rate"]
    print_table(header, rows)
    rates = {" ".join(key): values for key, values in by_library.items()}
    write_json(args.json, {"gflop_per_second": rates, "limit": limits, "share": shares})


def spread(values: list[float]) -> list[str]:
    return [f"{value:.0f}" for value in (statistics.median(values), *ends(values))]


def ends(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


if __name__ == "__main__":
    run_script(main)
