"""Compare the C++ scorer's log-probs and choices with eval_mc.py's, on the same questions of the test split.

    python benchmarks/scorer_parity.py --model RUN --onnx model.onnx --data ../shared/casehold --limit 200

fp32 on both sides. Ends with 1 where a log-prob differs by more than --tolerance, or where a choice, by sum or by mean,
differs although its margin exceeds twice that.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import eval_mc
from lib.cli import HelpFormatter, positive_float, positive_int
from lib.errors import InputError, run_script
from lib.questions.readers import find_split

SCORER = Path(__file__).resolve().parent.parent / "cpp_scorer" / "score"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="run or model folder")
    parser.add_argument("--onnx", required=True, help="its export in fp32")
    parser.add_argument("--data", required=True, help="folder or jsonl file with questions")
    parser.add_argument("--limit", type=positive_int, default=1_000_000, help="only the first N questions")
    parser.add_argument("--tolerance", type=positive_float, default=2e-3, help="largest difference of a log-prob")
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        theirs, questions = Path(folder) / "python.jsonl", Path(folder) / "questions.jsonl"
        flags = ["--model", args.model, "--data", args.data, "--limit", str(args.limit), "--output", str(theirs)]
        eval_mc.main([*flags, "--precision", "fp32"])
        with find_split(args.data, "test").open(encoding="utf-8") as lines:
            questions.write_text("".join(itertools.islice(lines, args.limit)), encoding="utf-8")
        command = [SCORER, "--model", args.onnx, "--input", questions]
        scored = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if scored.returncode:
            raise InputError(f"{SCORER.name}: ended with {scored.returncode}")
        pairs = list(zip(read(theirs.read_text(encoding="utf-8")), read(scored.stdout), strict=True))

    difference = max(np.abs(one["logprobs"] - other["logprobs"]).max() for one, other in pairs)
    print(f"{len(pairs)} questions: log-probs differ by {difference:.2e} at most")
    at_odds = difference > args.tolerance
    for score in ("sum", "mean"):
        values = [[by(score, record) for record in pair] for pair in pairs]
        flips = [margin(one) for one, other in values if one.argmax() != other.argmax()]
        print(f"choices by {score} that differ: {len(flips)}, with margins up to {max(flips, default=0.0):.2e}")
        at_odds |= any(value > 2 * args.tolerance for value in flips)
    return int(at_odds)


def read(text: str) -> list[dict]:
    records = [json.loads(line) for line in text.rstrip("\n").split("\n")]
    return [record | {name: np.array(record[name]) for name in ("logprobs", "tokens")} for record in records]


def by(score: str, record: dict) -> np.ndarray:
    return record["logprobs"] / (record["tokens"] if score == "mean" else 1)


def margin(values: np.ndarray) -> float:
    second, first = np.sort(values)[-2:]
    return float(first - second)


if __name__ == "__main__":
    run_script(main)
