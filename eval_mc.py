"""Evaluate a model on multiple choice: it picks the candidate with the highest log-prob.

python eval_mc.py --split test                                   the newest run, on CaseHOLD from the hub
python eval_mc.py --split test --model Qwen/Qwen2.5-0.5B         an untuned model
python eval_mc.py --split test --data DIR --output predictions.jsonl
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from lib.cli import HelpFormatter, positive_int
from lib.data import Dataset, load_split
from lib.errors import run_script
from lib.evaluation import SCORES, baselines, histogram, num_correct, predictions, wilson_interval
from lib.inference import SCORING_BATCH_SIZE, score_questions, start_accelerator
from lib.models import DTYPES, load_model, pick_precision
from lib.paths import atomic_file
from lib.prompt import PromptConfig, encode_questions, report_encoding
from lib.scoring import PackedScorer
from lib.selfcheck import check_family


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    data = parser.add_argument_group("data")
    data.add_argument("--split", choices=("train", "validation", "test"), default="test", help="which questions")
    data.add_argument("--data", default="casehold", help="casehold (from the hub), demo, or a jsonl/csv file or folder")
    data.add_argument("--limit", type=positive_int, help="only the first N questions")
    data.add_argument("--strict", action="store_true", help="stop at empty or equal endings instead of counting them")

    model = parser.add_argument_group("model")
    model.add_argument("--model", default="runs/latest", help="run, merged or base model folder, hub name, or demo")
    model.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on a GPU")
    model.add_argument("--batch-size", type=positive_int, default=SCORING_BATCH_SIZE, help="questions at once")

    scoring = parser.add_argument_group("scoring")
    scoring.add_argument("--score", choices=SCORES, default="sum", help="log-prob in all, a token, or a UTF-8 byte")
    scoring.add_argument(
        "--end-token",
        action=argparse.BooleanOptionalAction,
        help="close endings with the end-of-text token (default: as trained)",
    )
    scoring.add_argument("--output", type=Path, help="write predictions here, one JSON line a question")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    precision = pick_precision(args.precision)
    accelerator = start_accelerator(precision)
    data = load_split(args.data, args.split, limit=args.limit, strict=args.strict)
    loaded = load_model(args.model, DTYPES[precision])
    prompt = prompt_config(loaded.prompt, data.default_template, args.end_token)
    encoded = encode_questions(data.questions, loaded.tokenizer, prompt)
    check_family(loaded.model, max(item.num_tokens for item in encoded))
    scorer = accelerator.prepare_model(PackedScorer(loaded.model), evaluation_mode=True)
    logprobs = score_questions(
        scorer, encoded, accelerator, batch_size=args.batch_size, description=f"{args.split} questions"
    )
    records = predictions(encoded, logprobs, args.score)
    if accelerator.is_main_process:
        print(
            "\n".join([f"model: {describe(args.model)}", *report_encoding(data, encoded), "", *report(data, records)])
        )
        if args.output:
            write_predictions(args.output, records)
            print(f"predictions: {args.output}")
    return 0


def prompt_config(trained: PromptConfig | None, default_template: str, end_token: bool | None) -> PromptConfig:
    """The prompt contract the model was trained with, or the default one for a base model; a flag changes the end."""
    config = trained or PromptConfig(default_template)
    return config if end_token is None else replace(config, end_token=end_token)


def describe(source: str) -> str:
    """The model's name, and for `runs/latest` the run behind it."""
    return f"{source} ({Path(source).resolve().name})" if source == "runs/latest" else source


def report(data: Dataset, records: list[dict]) -> list[str]:
    """Accuracy with its interval, the baselines beside it, and how labels and predictions are spread."""
    total, correct = len(records), num_correct(records)
    low, high = wilson_interval(correct, total)
    lines = [f"accuracy ({records[0]['score']}): {correct / total:.2%} [{low:.2%}, {high:.2%}] {correct} of {total}"]
    lines += [f"  {name:<13}{value:.1%}" for name, value in baselines(data.questions).items()]
    lines += ["", "candidate   labels  predictions"]
    lines += [f"{index:>9}  {labels:>7}  {chosen:>11}" for index, labels, chosen in histogram(records)]
    return lines


def write_predictions(path: Path, records: list[dict]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_script(main)
