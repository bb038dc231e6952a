"""Evaluate a model on multiple choice: it picks the candidate with the highest score.

python eval_mc.py --split test                                   the newest run, on CaseHOLD from the hub
python eval_mc.py --split test --model Qwen/Qwen2.5-0.5B         an untuned model
python eval_mc.py --split test --data DIR --output predictions.jsonl
python eval_mc.py --model demo --contract runs/mine              an untuned model under the prompt of a run
python eval_mc.py --model model.onnx --score all --report DIR    every score; DIR/report.html has the questions
python eval_mc.py --compare A.jsonl B.jsonl                      is B better than A?
"""

import argparse
from dataclasses import replace
from pathlib import Path

from lib.cli import HelpFormatter, flag, parse_typed, positive_int
from lib.errors import InputError, run_script
from lib.evaluation.compare import LETTERS, comparison_report, differing, read_aligned
from lib.evaluation.harness import HarnessTask, write_harness
from lib.evaluation.predictions import write_every_score, write_predictions
from lib.evaluation.report import Evaluation, write_report
from lib.evaluation.scorers import ModelScorer
from lib.evaluation.scores import SCORES, Scored
from lib.evaluation.summary import headline, score_table, summarise
from lib.export.contract import read_contract
from lib.models.device import describe_device
from lib.models.loading import pick_precision
from lib.packed.inference import start_accelerator
from lib.paths import check_writable
from lib.questions.data import Dataset, has_validation, load_split
from lib.questions.prompt import encode_questions, report_encoding
from lib.questions.prompt_config import PromptConfig, default_contract


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    data = parser.add_argument_group("data", "e.g. --data questions/ --split validation --limit 200")
    data.add_argument("--split", choices=("train", "validation", "test"), default="test", help="which questions")
    named = "of the hub casehold, lexglue/scotus, legalbench/TASK and others; demo; or a jsonl/csv file or folder"
    data.add_argument("--data", default="casehold", help=named)
    data.add_argument("--candidates", metavar="FILE", help="class names, one a line, for data with text and label")
    data.add_argument("--limit", type=positive_int, help="only the first N questions")
    data.add_argument("--strict", action="store_true", help="refuse empty, equal and cut endings, else only counted")

    model = parser.add_argument_group("model", "e.g. --model runs/mine, or --model smollm2 --contract runs/mine")
    model.add_argument(
        "--model", default="runs/latest", help="run, model folder, .gguf, model.onnx, hub name, smollm2 or demo"
    )
    model.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on a GPU")
    base = "model that the run was trained on, where it has moved; checked by its hash"
    model.add_argument("--base", metavar="MODEL", help=base)
    contract = "run, model.onnx or prompt.json whose prompt contract to score under (default: the model's own)"
    model.add_argument("--contract", metavar="RUN", help=contract)
    at_once = "questions at once (default: as many as the device takes well)"
    model.add_argument("--batch-size", type=positive_int, help=at_once)

    scoring = parser.add_argument_group("scoring", "e.g. --score pmi")
    scoring.add_argument(
        "--score",
        choices=(*SCORES, "all"),
        default="sum",
        help="what decides. sum: log-prob; mean, bytes: that a token, a UTF-8 byte; pmi: less that after a neutral "
        "prompt; reward: less the reference's; all: every one from one pass, and which of them validation would choose",
    )
    scoring.add_argument(
        "--end-token",
        action=argparse.BooleanOptionalAction,
        help="close endings with the end-of-text token (default: as trained)",
    )

    output = parser.add_argument_group("output", "e.g. --output predictions.jsonl --report runs/report")
    output.add_argument(
        "--output",
        type=Path,
        help="write predictions here, one JSON line a question; with --score all a file each, NAME.SCORE.jsonl; with "
        "--compare the questions on which the files differ",
    )
    harness = "write the predictions into this folder as lm-evaluation-harness does, samples and results"
    output.add_argument("--output-lm-eval", type=Path, metavar="DIR", help=harness)
    output.add_argument("--report", type=Path, metavar="DIR", help="new folder for report.html, report.md and figures")
    output.add_argument(
        "--compare", type=Path, nargs="+", metavar="FILE", help="compare predictions with those of the first file"
    )
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = build_parser()
    flags, typed = parse_typed(parser, argv)
    args = argparse.Namespace(**flags)
    if args.compare and not 2 <= len(args.compare) <= len(LETTERS):
        parser.error(f"--compare takes 2 to {len(LETTERS)} prediction files, not {len(args.compare)}")
    if args.compare and (others := sorted(typed.keys() - {"compare", "output"})):
        parser.error(f"{flag(others[0])} is of one model's answers; with --compare goes --output alone")
    if "precision" in typed and args.model.endswith(".onnx"):
        parser.error(f"--precision is of PyTorch's models; {args.model} has its own")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.compare:
        compare_files(args.compare, args.output)
    else:
        evaluate(args)
    return 0


def evaluate(args: argparse.Namespace) -> None:
    """Score the questions, print what the predictions are worth, and write what was asked for."""
    if args.report and args.report.exists():
        raise InputError(f"{args.report}: exists already; name a new folder with --report")
    if args.output and args.output.is_dir():
        raise InputError(f"{args.output}: a folder; name a file with --output")
    for path in (args.output, args.report, args.output_lm_eval and args.output_lm_eval / "results"):
        if path:
            check_writable(path)
    precision = pick_precision(args.precision)
    accelerator = start_accelerator(precision)
    accelerator.print(describe_device(accelerator.device, precision))
    data = load(args, args.split)
    model = ModelScorer(args.model, accelerator, precision, args.batch_size, args.base)
    prompt = prompt_config(args, model, data.default_template)
    scored = score(args, model, data, prompt, per_token=args.report is not None)
    validation = None
    if args.score == "all" and args.split == "validation":
        validation = scored
    elif args.score == "all" and has_validation(args.data):
        validation = score(args, model, load(args, "validation"), prompt)
    if not accelerator.is_main_process:
        return
    said = [f"model: {describe(args.model)}"]
    if model.prompt not in (None, prompt):
        said.append(f"note: it was trained with {model.prompt}; here it is {prompt}")
    print("\n".join([*said, *report_encoding(data, scored.encoded), ""]))
    chosen, table = score_table(scored, validation) if args.score == "all" else (args.score, [])
    records = scored.predictions(chosen)
    summary = summarise(data, scored, records, model.trained_on)
    print("\n".join([*table, *([""] if table else []), *headline(summary)]))
    if args.output:
        write_outputs(args, scored, records)
    if args.output_lm_eval:
        model_name = Path(args.model).resolve().name if args.model == "runs/latest" else args.model
        task = HarnessTask(model_name, args.data, args.split, args.limit, prompt, model.tokenizer.eos_token)
        for path in write_harness(args.output_lm_eval, task, scored.encoded, records):
            print(f"as lm-evaluation-harness writes it: {path}")
    if args.report:
        title = f"{describe(args.model)} on {args.split}"
        write_report(args.report, Evaluation(title, data, scored, records, summary, table, model.tokenizer))
        print(f"report: {args.report / 'report.html'}")


def load(args: argparse.Namespace, split: str) -> Dataset:
    return load_split(args.data, split, limit=args.limit, strict=args.strict, candidates_file=args.candidates)


def prompt_config(args: argparse.Namespace, model: ModelScorer, template: str) -> PromptConfig:
    """The prompt contract of --contract, else the one the model was trained with, else the default one; a flag changes
    the end."""
    config = read_contract(args.contract) if args.contract else model.prompt
    config = config or default_contract(template, model.tokenizer)
    return config if args.end_token is None else replace(config, end_token=args.end_token)


def score(
    args: argparse.Namespace, model: ModelScorer, data: Dataset, prompt: PromptConfig, *, per_token: bool = False
) -> Scored:
    """What the asked score needs of the model; a base model has no reference, so `all` goes without the reward."""
    return model.score(
        encode_questions(data.questions, model.tokenizer, prompt, strict=args.strict),
        prompt,
        neutral=args.score in ("pmi", "all"),
        reference=args.score == "reward" or (args.score == "all" and model.has_reference),
        per_token=per_token,
        description=data.source,
    )


def describe(source: str) -> str:
    """The model's name, and for `runs/latest` the run behind it."""
    return f"{source} ({Path(source).resolve().name})" if source == "runs/latest" else source


def write_outputs(args: argparse.Namespace, scored: Scored, records: list[dict]) -> None:
    """The predictions; with --score all those of every score, in files named after it."""
    written = [args.output]
    if args.score == "all":
        written = write_every_score(args.output, scored)
    else:
        write_predictions(args.output, records)
    for path in written:
        print(f"predictions: {path}")


def compare_files(paths: list[Path], output: Path | None) -> None:
    """Print how each file compares with the first; write the questions on which they differ."""
    aligned, left_out = read_aligned(paths)
    print("\n".join([*left_out, *comparison_report(paths, aligned)]))
    if output:
        first, *others = aligned
        pairs = zip(paths[1:], others, strict=True)
        rows = [{"b_file": str(path)} | row for path, other in pairs for row in differing(first, other)]
        write_predictions(output, rows)
        print(f"questions that differ: {output}")


if __name__ == "__main__":
    run_script(main)
