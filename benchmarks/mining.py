"""What mining costs, from opinions to questions, and how the choice of distractors grows with the holdings.

    python benchmarks/mining.py --opinions ../shared/caselaw
    python benchmarks/mining.py --opinions ../shared/caselaw_more --holdings 20000 50000 100000 200000

First one process: reading the opinions (decompressed before), packing them up as for another process, counting words,
finding holdings and propositions. Then tools/mine_holdings.py whole, with 1 and 2 processes, and with --ray where it is
installed. With --holdings: near-duplicates and distractors among that many consecutive sentences of the opinions, each
a holding with the sentence before it for a passage, by one process.
"""

import argparse
import importlib.util
import json
import pickle
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_int
from lib.errors import InputError, run_script
from lib.mining.corpus import batches, find, word_counts
from lib.mining.likeness import likeness
from lib.mining.opinions import count_words
from lib.mining.parentheticals import Holding
from lib.mining.sources import read_opinions
from lib.paths import ROOT
from lib.questions.data import MASK
from tables import machine, print_table, write_json
from timing import measured

_SENTENCE = re.compile(r"(?<=[a-z]\.) (?=[A-Z])")
WORDS = range(12, 60)  # of a sentence that may stand for a holding


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--opinions", type=Path, nargs="+", required=True, help="files and folders, as of the miner")
    parser.add_argument("--holdings", type=positive_int, nargs="+", default=[], metavar="N", help="numbers of holdings")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args(argv)
    print(machine())
    figures = {"stages": stages(args.opinions), "whole": whole(args.opinions)}
    if args.holdings:
        figures["distractors"] = growth(args.opinions, args.holdings)
    write_json(args.json, figures)
    return 0


def stages(paths: list[Path]) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "opinions.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps({"text": opinion.text}) + "\n" for opinion in read_opinions(paths))
        began = time.monotonic()
        opinions = list(read_opinions([file]))
        seconds = {"reading": time.monotonic() - began}
    words, _ = word_counts(paths, 1)
    texts = [opinion.text for opinion in opinions]
    of_text = partial(find, words=words, ngrams=np.empty(0, np.uint64), with_propositions=True)
    seconds |= {
        "packing up": taken(pickle.dumps, batches(opinions)),
        "counting words": taken(count_words, texts),
        "finding": taken(of_text, texts),
    }
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    rows = [
        {"stage": name, "opinions_per_second": len(texts) / value, "mb_per_second": megabytes / value}
        for name, value in seconds.items()
    ]
    header = (f"{len(texts):,} opinions, {megabytes:.0f} MB, one process", "opinions/s", "MB/s")
    columns = ("opinions_per_second", "mb_per_second")
    print_table(header, [[row["stage"], *(f"{row[name]:.4g}" for name in columns)] for row in rows])
    return rows


def taken(function: Callable, items: Iterable) -> float:
    """Seconds that `function` takes for all items."""
    began = time.monotonic()
    for item in items:
        function(item)
    return time.monotonic() - began


def whole(paths: list[Path]) -> list[dict]:
    sides = {"1 process": ["--workers", 1], "2 processes": ["--workers", 2]}
    if importlib.util.find_spec("ray"):
        sides["Ray"] = ["--ray"]
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for title, flags in sides.items():
            command = [sys.executable, ROOT / "tools" / "mine_holdings.py", *paths, "--propositions", *flags]
            seconds, memory = measured([*command, "--output", Path(folder) / title])
            figures.append({"side": title, "seconds": seconds, "memory_mb": memory})
    rows = [[one["side"], f"{one['seconds']:.1f}", f"{one['memory_mb']:.0f}"] for one in figures]
    print_table(("from opinions to questions", "seconds", "memory, MB"), rows)
    return figures


def growth(paths: list[Path], numbers: list[int]) -> list[dict]:
    made = list(islice(sentences(opinion.text for opinion in read_opinions(paths)), max(numbers)))
    if len(made) < max(numbers):
        lacking = f"{len(made):,} sentences of {WORDS[0]} to {WORDS[-1]} words, --holdings {max(numbers)} asks for more"
        raise InputError(f"{paths[0]}: {lacking}; add opinions")
    rows = []
    for number in sorted(numbers):
        began = time.monotonic()
        like = likeness(made[:number], f"{number:,}", 1)
        near = time.monotonic() - began
        ranking = taken(lambda _: None, like.rankings(f"{number:,}"))
        memory = psutil.Process().memory_info().rss / 1e6
        rows.append({"holdings": number, "near_seconds": near, "ranking_seconds": ranking, "memory_mb": memory})
    header = ("holdings", "vectors and near-duplicates, ms each", "ranking, ms each", "memory, MB")
    columns = [
        [f"{row['holdings']:,}"]
        + [f"{1e3 * row[name] / row['holdings']:.3g}" for name in ("near_seconds", "ranking_seconds")]
        + [f"{row['memory_mb']:.0f}"]
        for row in rows
    ]
    print_table(header, columns)
    return rows


def sentences(texts: Iterable[str]) -> Iterator[Holding]:
    """A holding a sentence of the right length that another comes before."""
    for text in texts:
        found = _SENTENCE.split(" ".join(text.split()))
        for before, sentence in zip(found, found[1:], strict=False):
            if len(sentence.split()) in WORDS:
                yield Holding(f"{before} ({MASK})", sentence)


if __name__ == "__main__":
    run_script(main)
