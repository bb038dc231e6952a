#!/usr/bin/env python
"""Let a language model judge answers: which of two states the masked holding better, shown in both orders.

python tools/judge.py --endpoint http://127.0.0.1:8000/v1 --judge NAME --answers a.jsonl --data DIR --output runs/judged
python tools/judge.py --endpoint https://api.openai.com/v1 --judge gpt-4o-mini --answers a.jsonl b.jsonl --output DIR

Answers are JSON lines with id and text, or the predictions of eval_mc.py; one file is set beside the gold endings. The
endpoint is of any server with OpenAI's /v1/chat/completions. Stopped or killed at any moment, the same command goes on.
"""

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, nonnegative_float, nonnegative_int, positive_float, positive_int
from lib.errors import InputError, run_script
from lib.evaluation.chat import ChatModel
from lib.evaluation.judgements import COUNTS, JUDGEMENTS_FILE, Judgements
from lib.evaluation.judging import (
    JUDGE_PROMPT,
    ORDERS,
    REMINDER,
    Outcome,
    Pair,
    judge_prompt,
    make_pairs,
    outcome,
    parse_verdict,
    read_answers,
)
from lib.evaluation.metrics import percent_interval
from lib.paths import atomic_file
from lib.progress import progress
from lib.questions.data import load_split


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    answers = parser.add_argument_group("answers", "e.g. --answers a.jsonl b.jsonl --data questions/ --limit 200")
    files = "one file, to judge against the gold endings, or two: JSON lines with id and text, or predictions"
    answers.add_argument("--answers", type=Path, nargs="+", required=True, metavar="FILE", help=files)
    named = "of the hub casehold, lexglue/scotus, legalbench/TASK and others; demo; or a jsonl/csv file or folder"
    answers.add_argument("--data", default="casehold", help=named)
    answers.add_argument("--split", choices=("train", "validation", "test"), default="test", help="which questions")
    more = "only N of the questions, drawn at random; a second start with a larger N goes on"
    answers.add_argument("--limit", type=positive_int, help=more)
    answers.add_argument("--seed", type=int, default=0, help="of the order of the questions")

    judge = parser.add_argument_group("judge", "e.g. --endpoint http://127.0.0.1:8000/v1 --judge NAME --concurrency 8")
    base = "base URL of the server, up to and with /v1"
    judge.add_argument("--endpoint", type=base_url, required=True, metavar="URL", help=base)
    judge.add_argument("--judge", required=True, metavar="NAME", help="the judge's name on the server")
    variable = "environment variable that holds the key, if the server wants one"
    judge.add_argument("--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help=variable)
    judge.add_argument("--max-tokens", type=positive_int, default=64, help="of a reply")
    judge.add_argument("--concurrency", type=positive_int, default=4, help="requests at a time")
    judge.add_argument("--timeout", type=positive_float, default=120.0, help="seconds to wait for a reply")
    again = "times that a request is sent again after a time-out, a 429 or a 5xx"
    judge.add_argument("--retries", type=nonnegative_int, default=5, help=again)

    output = parser.add_argument_group("output", "e.g. --output runs/judged --price 0.15 0.60")
    folder = f"folder of {JUDGEMENTS_FILE} and report.json, to go on with where it exists"
    output.add_argument("--output", type=Path, required=True, metavar="DIR", help=folder)
    price = "of a million prompt and a million completion tokens, to show what was spent"
    output.add_argument("--price", type=nonnegative_float, nargs=2, metavar=("X", "Y"), help=price)
    return parser


def base_url(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise argparse.ArgumentTypeError(f"{text} is not a URL such as http://127.0.0.1:8000/v1")
    if url.username is not None or url.query or url.fragment:
        raise argparse.ArgumentTypeError("a URL with a user, a query or a fragment; the key goes by --api-key-env")
    return text.rstrip("/")


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if len(args.answers) > 2:
        parser.error(f"--answers takes one or two files, not {len(args.answers)}")
    data = load_split(args.data, args.split)
    answers = [read_answers(path, data) for path in args.answers]
    pairs = make_pairs(data, answers)
    left_out = len(set().union(*answers)) - len(pairs)
    random.Random(args.seed).shuffle(pairs)
    pairs = pairs[: args.limit]
    settings = {
        "--endpoint": args.endpoint,
        "--judge": args.judge,
        "--max-tokens": args.max_tokens,
        "--seed": args.seed,
        "--data": f"SHA-256 {data.sha256[:16]}",
        "--answers": " and ".join(f"SHA-256 {sha256(path.read_bytes())}" for path in args.answers),
        "prompt": f"SHA-256 {sha256((JUDGE_PROMPT + REMINDER).encode())}",
    }
    model = ChatModel(
        args.endpoint,
        args.judge,
        key_env=args.api_key_env,
        max_tokens=args.max_tokens,
        timeout=args.timeout,
        retries=args.retries,
        concurrency=args.concurrency,
    )
    with Judgements(args.output, settings) as judgements:
        judge_all(model, pairs, judgements, args.concurrency)
        found = outcome(pairs, judgements.records)
        if not found.judged:
            said = next(iter(judgements.records.values()))["said"]
            raise InputError(
                f"{judgements.path}: no question has a verdict; the judge says {said[:100]!r}; "
                "raise --max-tokens if its replies are cut, or choose another --judge"
            )
        names = [str(path) for path in args.answers] if len(args.answers) == 2 else [str(args.answers[0]), "gold"]
        write_report(args, names, found, judgements, left_out)
    return 0


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def judge(model: ChatModel, pair: Pair, order: str) -> dict:
    """One judgement, as `Judgements` keeps it. A reply that cannot be parsed is asked for once more; where the second
    cannot either, or the judge cannot hold the prompt, there is no verdict."""
    record = {"id": pair.id, "order": order, "verdict": None, "said": ""} | dict.fromkeys(COUNTS, 0)
    prompt = judge_prompt(pair, order)
    for text in (prompt, prompt + REMINDER):
        reply = model.ask(text)
        record["said"] = reply.text
        for count in COUNTS:
            number = getattr(reply, count)
            record[count] = None if None in (number, record[count]) else record[count] + number
        if reply.too_long:
            break
        if verdict := parse_verdict(reply.text):
            return record | {"verdict": verdict}
    return record


def judge_all(model: ChatModel, pairs: Sequence[Pair], judgements: Judgements, concurrency: int) -> None:
    """Judge what is not judged yet. After an error or Ctrl-C nothing more is asked, and replies under way are kept."""
    asked = [(pair, order) for pair in pairs if not pair.is_equal for order in ORDERS]
    todo = [(pair, order) for pair, order in asked if (pair.id, order) not in judgements.records]

    def judge_one(pair: Pair, order: str) -> None:
        if model.stopping.is_set():
            return
        try:
            judgements.add(judge(model, pair, order))
        except BaseException:
            model.stopping.set()  # here, since this thread may begin the next one before the main thread knows
            raise

    with progress(total=len(asked), initial=len(asked) - len(todo), desc="judging", unit="judgement") as bar:
        pool = ThreadPoolExecutor(concurrency)
        try:
            for future in as_completed([pool.submit(judge_one, pair, order) for pair, order in todo]):
                future.result()
                bar.update()
        except KeyboardInterrupt:
            print("\nstopping; waiting for replies under way; the same command goes on later", file=sys.stderr)
            raise
        finally:
            model.stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)


def write_report(
    args: argparse.Namespace, names: Sequence[str], found: Outcome, judgements: Judgements, left_out: int
) -> None:
    """report.json, and the same for reading."""
    first, second = names
    costs = {count: judgements.total(count) for count in COUNTS}
    report = {
        "judge": args.judge,
        "answers": list(names),
        "judged": found.judged,
        "win_rate": found.win_rate,
        "interval": found.interval,
        "p_value": found.p_value,
        "wins": found.wins,
        "ties": found.ties,
        "equal": found.equal,
        "inconsistent": {"favours_a": found.favours_a, "favours_b": found.favours_b, "one_order": found.one_order},
        "no_verdict": found.no_verdict,
        "left_out": left_out,
        **costs,
    }
    with atomic_file(args.output / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    ties = found.judged - sum(found.wins)
    print(f"{first} against {second}, judged by {args.judge} in both orders: {found.judged} questions")
    print(f"win rate: {found.win_rate:.2%} {percent_interval(found.interval)}, exact sign test p = {found.p_value:.3g}")
    print(f"  {found.wins[0]} won, {found.wins[1]} lost, {ties} ties, which count half: {found.ties} in both orders,")
    print(f"  {found.equal} of equal texts, which are not asked, and {found.inconsistent} inconsistent")
    print(
        f"position bias: of {found.judged - found.equal} questions with a verdict, whichever answer stood first won "
        f"{found.favours_a}, whichever stood second {found.favours_b}; {found.one_order} a tie in one order alone"
    )
    print(f"no verdict: {found.no_verdict} questions, left out of the win rate")
    if left_out:
        print(f"left out: {left_out} questions that are not answered in every file")
    spent = ""
    if args.price:
        prompt, completion = args.price
        spent = f"; {(costs['prompt_tokens'] * prompt + costs['completion_tokens'] * completion) / 1e6:.4f} spent"
    lacking = f" ({judgements.unreported} judgements without)" if judgements.unreported else ""
    tokens = f"{costs['prompt_tokens']:,} prompt and {costs['completion_tokens']:,} completion tokens"
    print(f"costs: {costs['requests']:,} requests, {tokens}{lacking}{spent}")


if __name__ == "__main__":
    run_script(main)
