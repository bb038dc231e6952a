"""Ray beside what one machine does without it: questions in blocks beside the pipe, and a sweep's runs as its tasks
beside our own processes.

    python benchmarks/scale.py --onnx model.onnx --data ../shared/casehold --questions 64
    python benchmarks/scale.py --model model --data questions/ --questions 64

With --onnx: the pipe with one thread, and tools/score_dataset.py with 1 and 2 workers of one thread each, on the same
questions. A side's start is its time for one question; its speed is that of the others. With --model: two runs of one
epoch by tools/sweep.py --jobs 2, without and with --ray. Memory is the most that a side's processes had together
(proportional set size, looked at twice a second).
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_int
from lib.errors import run_script
from lib.paths import ROOT
from lib.questions.readers import find_split, read_rows
from tables import machine, print_table, write_json
from timing import measured

BLOCK_ROWS = 8


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--onnx", type=Path, nargs="*", default=[], help="exports to score by; each gives a table")
    parser.add_argument("--model", type=Path, help="model folder to sweep from")
    parser.add_argument("--data", required=True, help="questions, all splits")
    parser.add_argument(
        "--questions", type=positive_int, default=64, help="of the test split; of training, with --model"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args(argv)
    print(machine())
    figures = {str(path): scoring(path, args) for path in args.onnx}
    if args.model:
        figures["sweep"] = sweeping(args)
    write_json(args.json, figures)
    return 0


def scoring(model: Path, args: argparse.Namespace) -> list[dict]:
    rows = [row for _, row in read_rows(find_split(args.data, "test"))][: args.questions]
    sides = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (1, len(rows)):
            text = "".join(json.dumps(row) + "\n" for row in rows[:count])
            (folder / f"{count}.jsonl").write_text(text, encoding="utf-8")
        for workers in (0, 1, 2):
            (start, _), (whole, memory) = (
                measured(scorer(model, folder / f"{count}.jsonl", folder / f"{workers}-{count}", workers))
                for count in (1, len(rows))
            )
            speed = (len(rows) - 1) / (whole - start)
            title = f"Ray, {workers} workers" if workers else "the pipe, one thread"
            sides.append({"side": title, "start": start, "questions_per_second": speed, "memory_mb": memory})
    header = (model.name, "start, s", "questions/s", "of the pipe", "memory, MB")
    first = sides[0]["questions_per_second"]
    print_table(header, [[one["side"], *columns(one, one["questions_per_second"] / first)] for one in sides])
    return sides


def columns(side: dict, ratio: float) -> list[str]:
    speed = f"{side['questions_per_second']:.4g}"
    return [f"{side['start']:.1f}", speed, f"{ratio:.3f}", f"{side['memory_mb']:.0f}"]


def scorer(model: Path, questions: Path, output: Path, workers: int) -> list:
    """The command of a side; workers 0 is the pipe."""
    if not workers:
        program = ROOT / "cpp_scorer" / "score"
        return [program, "--threads", 1, "--model", model, "--input", questions, "--output", f"{output}.jsonl"]
    flags = ["--model", model, "--output", output, "--workers", workers, "--block-rows", BLOCK_ROWS]
    return [sys.executable, ROOT / "tools" / "score_dataset.py", questions, *flags]


def sweeping(args: argparse.Namespace) -> list[dict]:
    sides = []
    grid = ["--loss", "sdpo", "--num-neg", 1, 2, "--seed", 0, "--epochs", 1, "--split", "validation", "--jobs", 2]
    grid += ["--model", args.model, "--data", args.data, "--limit", args.questions]
    with tempfile.TemporaryDirectory() as folder:
        for title, more in (("our own processes", []), ("Ray", ["--ray"])):
            output = Path(folder) / title.split()[-1]
            seconds, memory = measured([sys.executable, ROOT / "tools/sweep.py", *grid, "--output", output, *more])
            sides.append({"side": title, "seconds": seconds, "memory_mb": memory})
    rows = [[one["side"], f"{one['seconds']:.0f}", f"{one['memory_mb']:.0f}"] for one in sides]
    print_table(("a sweep of two runs", "seconds", "memory, MB"), rows)
    return sides


if __name__ == "__main__":
    run_script(main)
