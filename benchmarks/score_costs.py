"""What every score costs against the sum alone, in turn on the same questions, on this machine.

    python benchmarks/score_costs.py --model RUN --data ../shared/casehold

The model is a run, since the reward needs its reference. pmi reads every ending a second time, after a neutral prompt;
the reward reads every question a second time, under the reference (whose cache is left out). Loading is not timed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import lib.packed.reference
from lib.cli import HelpFormatter, positive_int
from lib.errors import InputError, run_script
from lib.evaluation.scorers import ModelScorer
from lib.packed.inference import start_accelerator
from lib.questions.data import load_split
from lib.questions.prompt import encode_questions
from lib.questions.prompt_config import default_contract
from tables import machine, print_table, write_json

SIDES = {
    "sum": dict(neutral=False, reference=False),
    "sum, mean, bytes, pmi": dict(neutral=True, reference=False),
    "sum, mean, bytes, pmi, reward": dict(neutral=True, reference=True),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="run")
    parser.add_argument("--data", required=True, help="folder or file with questions, test split")
    parser.add_argument("--rounds", type=positive_int, default=5, help="rounds, new questions in each")
    parser.add_argument("--questions", type=positive_int, default=10, help="questions a round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args(argv)

    data = load_split(args.data, "test", limit=args.rounds * args.questions)
    if len(data.questions) < args.rounds * args.questions:
        raise InputError(f"{data.source}: fewer than {args.rounds * args.questions} questions; lower --rounds")
    model = ModelScorer(args.model, start_accelerator("fp32"), "fp32", 1)
    if not model.has_reference:
        raise InputError(f"{args.model}: is no run, so it has no reference; name a run with --model")
    prompt = model.prompt or default_contract(data.default_template, model.tokenizer)
    encoded = encode_questions(data.questions, model.tokenizer, prompt)
    seconds = {name: [] for name in SIDES}
    for start in tqdm(range(0, len(encoded), args.questions), unit="round"):
        for name, asked in SIDES.items():
            with tempfile.TemporaryDirectory() as cache:
                lib.packed.reference.CACHE_DIR = Path(cache)
                began = time.perf_counter()
                questions = encoded[start : start + args.questions]
                model.score(questions, prompt, **asked, per_token=False, description=name)
                seconds[name].append((time.perf_counter() - began) / len(questions))

    print(f"\n{args.rounds} rounds of {args.questions} questions, fp32; {machine()}")
    rows = []
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds["sum"], strict=True)]
        shown = [statistics.median(values), min(values), max(values), statistics.median(ratios)]
        rows.append([name, *(f"{value:.2f}" for value in shown)])
    print_table(["scores", "s a question", "lowest", "highest", "times the sum's"], rows)
    write_json(args.json, {"questions": args.questions, "seconds": seconds})
    return 0


if __name__ == "__main__":
    run_script(main)
