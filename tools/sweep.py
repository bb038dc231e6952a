"""Run a grid of losses, numbers of negatives, betas and seeds, and write the tables and figures of Marsh and of SWEPO.

python tools/sweep.py --output runs/sweep                        the whole grid: Qwen2.5-0.5B on CaseHOLD from the hub
python tools/sweep.py --model demo --data demo --limit 320 --batch-size 16 --learning-rate 3e-3 --jobs 2
python tools/sweep.py --loss sdpo --num-neg 1 2 4 --beta 0.05 0.1 --seed 0
python tools/sweep.py --ray 10.0.0.1:6379 --gpus-per-run 1 --output /shared/sweep      each run a task on a Ray cluster

Stopped or killed at any moment, the same command goes on; finished runs are not made again. In --output: report.md,
report.json, figures, and the runs with their predictions and logs.
"""

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, nonnegative_int, positive_float, positive_int, seed
from lib.cluster import LOCAL, tasks_on
from lib.errors import InputError, run_script
from lib.evaluation.scores import SCORES
from lib.experiments.figures import draw_sweep
from lib.experiments.grid import Run, make_grid
from lib.experiments.layout import SPLITS, UNTUNED
from lib.experiments.report import sweep_report
from lib.experiments.results import collect
from lib.experiments.sweep import Sweep
from lib.models.loading import load_tokenizer
from lib.models.runs import read_metrics
from lib.models.sources import resolve
from lib.paths import atomic_file
from lib.questions.data import load_split
from lib.questions.prompt_config import MAX_LENGTH, PROMPT_FILE, default_contract
from lib.training.losses import LOSSES

SHARED = ("model", "data", "candidates", "limit", "template", "max_length")
SHARED += ("epochs", "batch_size", "learning_rate", "lora_r", "precision")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    grid = parser.add_argument_group("grid", "e.g. --loss sdpo dpo --num-neg 1 4 --seed 0").add_argument
    grid("--loss", choices=list(LOSSES), nargs="+", default=list(LOSSES), help="objectives")
    grid("--num-neg", type=positive_int, nargs="+", default=[1, 2, 3, 4], metavar="K", help="numbers of negatives")
    every = "losses to run with every --num-neg; the others take the largest alone"
    grid("--every-num-neg", choices=list(LOSSES), nargs="*", default=["sdpo", "swepo"], metavar="LOSS", help=every)
    once = "losses to run with every --seed; the others take the first alone"
    grid("--every-seed", choices=list(LOSSES), nargs="*", default=list(LOSSES), metavar="LOSS", help=once)
    numbers = "numbers of negatives to run with every --seed; the others take the first alone (default: all)"
    grid("--every-seed-num-neg", type=positive_int, nargs="*", metavar="K", help=numbers)
    grid("--beta", type=positive_float, nargs="+", default=[0.1], help="scales of the implicit reward")
    grid("--seed", type=seed, nargs="+", default=[0, 1, 2], help="three random draws, as SWEPO's Table 2 has them")

    shared = parser.add_argument_group(
        "every run (what is not given is train_sdpo.py's default)", "e.g. --model smollm2 --data questions/ --limit 500"
    ).add_argument
    shared("--model", default="Qwen/Qwen2.5-0.5B", help="hub name, model folder, .gguf, finished run, smollm2 or demo")
    named = "of the hub casehold, lexglue/scotus, legalbench/TASK and others; demo; or a jsonl/csv file or folder"
    shared("--data", default="casehold", help=named)
    shared("--candidates", metavar="FILE", help="class names, one a line, for data with text and label")
    shared("--limit", type=positive_int, help="only the first N questions of each split")
    shared("--template", help="prompt template, as of train_sdpo.py")
    shared("--max-length", type=positive_int, help="tokens of prompt and longest candidate; the papers': 256")
    shared("--epochs", type=positive_int, help="passes over the questions")
    shared("--batch-size", type=positive_int, help="questions at once")
    shared("--learning-rate", type=positive_float, help="of AdamW, at its highest")
    shared("--lora-r", type=nonnegative_int, help="rank of the adapter; 0: every weight is trained")
    shared("--precision", choices=("auto", "fp32", "bf16"), help="of training and evaluation")

    sweep = parser.add_argument_group("sweep", "e.g. --output runs/sweep --split validation --score pmi").add_argument
    evaluated = "questions that every run is evaluated on; the last are those of tables and figures"
    sweep("--split", choices=SPLITS, nargs="+", default=list(SPLITS), help=evaluated)
    sweep("--score", choices=SCORES, default="sum", help="of eval_mc.py (the untuned model: sum for reward)")
    sweep("--output", type=Path, default=Path("runs/sweep"), help="folder of the sweep, to go on with where it exists")
    jobs = "runs at a time (with --ray: on its smallest node); they share the CPU's cores, and on a GPU its memory"
    sweep("--jobs", type=positive_int, default=1, help=jobs)

    example = "e.g. --ray 10.0.0.1:6379 --gpus-per-run 1 --output /shared/sweep"
    ray = parser.add_argument_group("Ray", example).add_argument
    joined = "run on the Ray cluster at this address (without one: started on this machine); every node sees --output"
    ray("--ray", nargs="?", const=LOCAL, metavar="ADDRESS", help=joined)
    gpus = "GPUs that a run takes, also a part of one; in the place of --jobs"
    ray("--gpus-per-run", type=positive_float, help=gpus)
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    gpus = args.gpus_per_run
    if gpus and (not args.ray or gpus > 1 and not gpus.is_integer()):
        parser.error("--gpus-per-run takes a part of one GPU or a whole number of them, and goes with --ray")
    every = args.every_seed, args.every_seed_num_neg
    runs = make_grid(args.loss, args.every_num_neg, args.num_neg, args.beta, args.seed, *every)
    settings = {name: getattr(args, name) for name in SHARED}
    with ExitStack() as stack:
        for split in args.split:  # before the folder is begun with it
            load_split(args.data, split, limit=1, candidates_file=args.candidates)
        if Path(args.data).is_file():
            raise InputError(
                f"{args.data}: would be trained on and evaluated on; give a folder with a file for each split"
            )
        tasks = stack.enter_context(tasks_on(args.ray, args.jobs, args.gpus_per_run)) if args.ray else None
        sweep = stack.enter_context(Sweep(args.output, settings, score=args.score, splits=args.split))
        write_contract(args)
        try:
            sweep.perform_on(tasks, runs) if tasks else sweep.perform(runs, args.jobs)
        except KeyboardInterrupt:
            print(f"\nstopped; the same command goes on where {args.output} stands", file=sys.stderr)
            raise
        write_sweep_report(sweep, runs)
    print(f"{args.output / 'report.md'}: {len(runs)} runs")
    return 0


def write_contract(args: argparse.Namespace) -> None:
    """The prompt contract of the runs, for the untuned model, where it would not be evaluated under it by itself."""
    if args.template or args.max_length or Path(args.model, PROMPT_FILE).exists():  # a finished run has another one
        data = load_split(args.data, args.split[0], limit=1, candidates_file=args.candidates)
        template, length = args.template or data.default_template, args.max_length or MAX_LENGTH
        default_contract(template, load_tokenizer(resolve(args.model)), max_length=length).save(args.output)


def write_sweep_report(sweep: Sweep, runs: list[Run]) -> None:
    """report.json, the figures, and report.md last, each of them whole."""
    report = collect(sweep, runs)
    if models := example_models(sweep, runs):
        from lib.experiments.examples import make_examples

        contract = sweep.folder if (sweep.folder / PROMPT_FILE).exists() else None
        report["examples"] = make_examples(
            models, sweep.settings["data"], sweep.splits[-1], sweep.settings["candidates"], contract
        )
    figures = draw_sweep(report, {run.name: read_metrics(sweep.run_folder(run.name)) for run in runs}, sweep.folder)
    for name, text in (
        ("report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n"),
        ("report.md", sweep_report(report, figures)),
    ):
        with atomic_file(sweep.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def example_models(sweep: Sweep, runs: list[Run]) -> dict[str, str]:
    """The untuned model, and S-DPO with the fewest and the most negatives of the grid (first beta, first seed)."""
    sdpo = sorted((run for run in runs if run.loss == "sdpo"), key=lambda run: run.num_neg)
    if not sdpo:
        return {}
    most = next(run for run in sdpo if run.num_neg == sdpo[-1].num_neg)
    chosen = {f"K = {run.num_neg}": str(sweep.run_folder(run.name)) for run in (sdpo[0], most)}
    return {UNTUNED: sweep.settings["model"]} | chosen


if __name__ == "__main__":
    run_script(main)
