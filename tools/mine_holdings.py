#!/usr/bin/env python
"""Make training questions of opinions: each holding they state of a case they cite, masked, among four others.

python tools/mine_holdings.py opinions/ --output data/mined            a folder of .jsonl, .parquet and .txt files
python tools/mine_holdings.py opinions.jsonl.xz --output data/mined --exclude DIR     keep test questions out

Writes train.jsonl, validation.jsonl and test.jsonl, split by opinion, for --data, and report.md, with samples to read.
"""

import argparse
import json
import os
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from shlex import quote

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_int, share
from lib.cluster import LOCAL, tasks_on
from lib.errors import InputError, run_script
from lib.mining.corpus import all_excluded, find, parallel, word_counts
from lib.mining.distractors import Mined, questions, split_by_opinion
from lib.mining.overlap import held_out_ngrams, ngrams_of, shares_ngram
from lib.mining.propositions import PROPOSITION
from lib.mining.report import mining_report
from lib.mining.sources import read_opinions
from lib.mining.workers import Workers
from lib.paths import atomic_dir, check_writable
from lib.questions.data import load_split


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("opinions", type=Path, nargs="+", help="files (.jsonl, .parquet, .txt), folders")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR_OR_FILE",
        help="leave out opinions that share 13 consecutive words with these questions (a folder's validation and test)",
    )
    parser.add_argument("--validation-share", type=share, default=0.1, help="of the questions")
    parser.add_argument("--test-share", type=share, default=0.1, help="of the questions")
    more = "also mask the sentences that opinions cite cases for: many more questions, of the training split alone"
    parser.add_argument("--propositions", action="store_true", help=more)
    parser.add_argument("--seed", type=int, default=0, help="of the splits, and of the right answers' places")
    parser.add_argument("--workers", type=positive_int, default=os.cpu_count(), help="processes; they change no result")
    joined = "mine on the Ray cluster at this address (without one: started on this machine), in the place of --workers"
    parser.add_argument("--ray", nargs="?", const=LOCAL, metavar="ADDRESS", help=joined)
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    shares = {"train": 1 - args.validation_share - args.test_share}
    shares |= {"validation": args.validation_share, "test": args.test_share}
    if shares["train"] < 1e-9:  # 0.7 and 0.3 leave 5.6e-17
        parser.error("--validation-share and --test-share leave nothing to train on")
    if args.output.exists():
        raise InputError(f"{args.output}: exists already; choose another --output")
    check_writable(args.output)

    with ExitStack() as stack:
        workers = stack.enter_context(tasks_on(args.ray)) if args.ray else args.workers
        return mine(args, shares, workers)


def mine(args: argparse.Namespace, shares: dict[str, float], workers: Workers) -> int:
    ngrams = held_out_ngrams(args.exclude)
    words, num_read = word_counts(args.opinions, workers)
    of_opinions = parallel(
        find, read_opinions(args.opinions), workers, "mining", words, ngrams, args.propositions, total=num_read
    )
    mined, stated, dropped, met, num_excluded = [], [], Counter(), set(), 0
    for number, (source, found) in enumerate(of_opinions):
        if found is None:
            num_excluded += 1
            continue
        dropped.update(found.problems)
        stated += [Mined(holding, number, source) for holding in found.propositions]
        for holding in found.holdings:
            _, said = holding.text.split(" ", 1)
            if said in met:
                dropped["the same holding was met before"] += 1
                continue
            met.add(said)
            mined.append(Mined(holding, number, source))
    if num_excluded == num_read:
        raise all_excluded()
    if not mined:
        raise InputError(
            f"{args.opinions[0]}: holds no usable holding, as in 1 F.3d 2 (1st Cir. 1993) (holding that ...)"
        )

    members_of = split_by_opinion(mined, shares, args.seed)
    stated = training_propositions(stated, members_of)
    with atomic_dir(args.output) as folder:
        splits = {}
        for split, members in members_of.items():
            rows = list(questions(split, members, args.seed, workers))
            dropped["the split holds too few others to choose from"] += len(members) - len(rows)
            if split == "train":
                rows += questions(PROPOSITION, stated, args.seed, workers)
            if rows:
                with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                splits[split] = load_split(str(folder), split)
        if "train" not in splits:
            raise InputError(f"{args.opinions[0]}: {len(mined)} holdings are too few to make questions; add opinions")
        (folder / "report.md").write_text(
            mining_report(num_read, num_excluded, +dropped, splits, args.seed), encoding="utf-8"
        )
    made = ", ".join(f"{split} {len(data.questions):,}" for split, data in splits.items())
    print(f"opinions: {num_read:,} read, {num_excluded:,} left out for words of questions to exclude")
    print(f"questions: {made}; {dropped.total():,} parentheticals dropped")
    print(f"{args.output}: report.md says why, with questions to read")
    print(f"next: python train_sdpo.py --num-neg 4 --data {quote(str(args.output))}")
    return 0


def training_propositions(stated: list[Mined], members_of: dict[str, list[Mined]]) -> list[Mined]:
    """The propositions of opinions that stand in no other split, without those that share 13 consecutive words with a
    passage there."""
    others = [item for split, members in members_of.items() if split != "train" for item in members]
    ngrams = ngrams_of(item.holding.filled for item in others)
    taken = {item.opinion for item in others}
    return [item for item in stated if item.opinion not in taken and not shares_ngram(item.holding.filled, ngrams)]


if __name__ == "__main__":
    run_script(main)
