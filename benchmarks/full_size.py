"""What data of full size cost beside the model's own time: reading, encoding, memory, the report.

    python benchmarks/full_size.py --cache .cache/full-size

Makes a rehearsal (make_rehearsal.py) of each number of training questions in --cache, kept for the next time. Each is
read in a process of its own, as train_sdpo.py reads it: start-up is all from the start of the process until its
questions are ready, the model left out. Seconds of the processor are there for a machine that is not idle, and have
those of all threads in them. The report is that of eval_mc.py over the first rehearsal's test questions,
with log-probs drawn by lot, since its size does not depend on them.
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import make_rehearsal
from lib.cli import HelpFormatter, positive_int
from lib.errors import InputError, run_script
from lib.evaluation.report import Evaluation, write_report
from lib.evaluation.scores import Scored
from lib.evaluation.summary import summarise
from lib.models.loading import load_tokenizer
from lib.questions.data import Dataset, load_split
from lib.questions.prompt import EncodedQuestion, encode_questions
from lib.questions.prompt_config import default_contract
from lib.training.negatives import epoch_order, training_questions
from tables import print_table, processor, write_json

SIZE = "0.01b"  # of the model, which is not run
SPLITS = {"questions": "train", "report": "test"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    counts = "training questions, a rehearsal each"
    parser.add_argument("--questions", type=positive_int, nargs="+", default=[5_000, 45_000, 300_000], help=counts)
    parser.add_argument("--report", type=positive_int, default=3_900, help="test questions of the report")
    parser.add_argument("--cache", type=Path, default=Path(".cache/full-size"), help="folder of the rehearsals")
    parser.add_argument("--data", default="../shared/casehold", help="folder or file of real questions, or demo")
    parser.add_argument("--tokenizer", default="../shared/qwen2_tokenizer", help="folder of Qwen2's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--worker", nargs=2, metavar=("WHAT", "BEGAN"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        what, began = args.worker
        print(json.dumps(measure_report() if what == "report" else measure_questions(float(began))))
        return 0

    folders = [rehearsal(count, args) for count in args.questions]
    questions = [in_a_process("questions", folder) for folder in folders]
    report = in_a_process("report", folders[0])
    print(f"\n{processor()}")
    times = [f"{name}, {unit}" for name in ("reading", "encoding", "start-up") for unit in ("s", "CPU s")]
    header = ["questions", *times, "resident MB", "peak MB", "an epoch's order, ms"]
    print_table(header, [question_row(figures) for figures in questions])
    print_table(
        ["questions", "report.html, MB", "written in, s"],
        [[f"{report['questions']:,}", f"{report['bytes'] / 1e6:.1f}", f"{report['seconds']:.1f}"]],
    )
    write_json(args.json, {"questions": questions, "report": report})
    return 0


def rehearsal(count: int, args: argparse.Namespace) -> Path:
    folder = args.cache / f"{count}-{args.report}"
    if not folder.exists():
        flags = ["--rows", str(count), "100", str(args.report), "--size", SIZE, "--output", str(folder)]
        make_rehearsal.main([*flags, "--questions", str(args.data), "--tokenizer", str(args.tokenizer)])
    return folder


def in_a_process(what: str, folder: Path) -> dict:
    """The figures of a worker, for which `folder` is the hub's cache."""
    child = subprocess.run(
        [sys.executable, __file__, "--worker", what, str(time.time())],
        env=os.environ | {"HF_HOME": str(folder.resolve()), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if child.returncode:
        raise InputError(f"{folder}: measuring {what} ended with {child.returncode}")
    return json.loads(child.stdout.splitlines()[-1])


def measure_questions(began: float) -> dict:
    """Seconds by the clock since `began` and of the processor; MB that the questions of a training run leave resident,
    and the most that the process had."""
    tokenizer = load_tokenizer(make_rehearsal.HUB_MODEL)
    gc.collect()
    before, clock = memory_mb("VmRSS"), [now(began)]
    data = load_split("casehold", SPLITS["questions"])
    clock.append(now(began))
    encoded = encode(data, tokenizer)
    clock.append(now(began))
    kept, _ = training_questions(encoded)
    clock.append(now(began))
    gc.collect()
    after, ready = memory_mb("VmRSS"), time.perf_counter()
    epoch_order(len(kept), 0, 0)
    order = time.perf_counter() - ready
    return {
        "questions": len(data.questions),
        "reading": (clock[1] - clock[0]).tolist(),
        "encoding": (clock[2] - clock[1]).tolist(),
        "start_up": clock[3].tolist(),
        "order": order,
        "resident_mb": after - before,
        "peak_mb": memory_mb("VmHWM"),
    }


def question_row(figures: dict) -> list[str]:
    seconds = [f"{value:.1f}" for name in ("reading", "encoding", "start_up") for value in figures[name]]
    memory = [f"{figures[name]:,.0f}" for name in ("resident_mb", "peak_mb")]
    return [f"{figures['questions']:,}", *seconds, *memory, f"{1e3 * figures['order']:.0f}"]


def measure_report() -> dict:
    """Bytes of the page of all test questions, and the seconds that writing it took."""
    tokenizer, lots = load_tokenizer(make_rehearsal.HUB_MODEL), random.Random(0)
    data = load_split("casehold", SPLITS["report"])
    encoded = encode(data, tokenizer)
    tokens = [[[-lots.expovariate(0.3) for _ in ids] for ids in item.ending_ids] for item in encoded]
    scored = Scored(encoded, [[sum(values) for values in row] for row in tokens], token_logprobs=tokens)
    records = scored.predictions("sum")
    with tempfile.TemporaryDirectory() as folder:
        page, summary = Path(folder, "report"), summarise(data, scored, records)
        began = time.perf_counter()
        write_report(page, Evaluation("full size", data, scored, records, summary, [], tokenizer))
        seconds = time.perf_counter() - began
        return {"questions": len(records), "bytes": (page / "report.html").stat().st_size, "seconds": seconds}


def encode(data: Dataset, tokenizer) -> list[EncodedQuestion]:
    return encode_questions(data.questions, tokenizer, default_contract(data.default_template, tokenizer))


def now(began: float) -> np.ndarray:
    """Seconds since `began` by the clock, and of the processor since this process began."""
    return np.array([time.time() - began, time.process_time()])


def memory_mb(field: str) -> float:
    """Resident memory of this process (VmRSS) or the most so far (VmHWM), as Linux tells it: getrusage would count
    what the parent had."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    run_script(main)
