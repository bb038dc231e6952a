"""Write the hub's cache as CaseHOLD and Qwen2.5-0.5B would fill it, with made-up questions and random weights.

    python benchmarks/make_rehearsal.py --output .cache/rehearsal
    HF_HOME=.cache/rehearsal HF_HUB_OFFLINE=1 python train_sdpo.py --num-neg 4

With those two variables every command runs at its defaults without a network, by the code that reads the hub's own
files. A text is spliced from two of --questions, so that lengths and words are theirs and few texts stand twice; each
split holds the `oddities` too.
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import torch
from datasets import ClassLabel, Dataset, Features, List, Value, disable_progress_bars, load_dataset_builder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_int
from lib.errors import InputError, run_script
from lib.paths import atomic_dir
from lib.questions.data import MASK, Question, load_split
from lib.questions.hub_data import CASEHOLD
from make_random_model import SIZES, random_model

HUB_MODEL = "Qwen/Qwen2.5-0.5B"
REVISION = hashlib.sha1(b"rehearsal").hexdigest()  # in the hub's place for a commit
NUM_ENDINGS = 5
FEATURES = Features(
    context=Value("string"),
    endings=List(Value("string")),
    label=ClassLabel(names=[str(index) for index in range(NUM_ENDINGS)]),
)
NUM_BYTES, NUM_SPECIAL = 256, 3  # tokens of Qwen2's before its first merge, and after its last
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
# Real CaseHOLD holds an ending of 93,974 characters: a bracket that never closed.
LONG_ENDING = 93_974
# Seen in real contexts: what is not a letter of Latin, quotation mark, section sign or dash, and one Cyrillic letter.
UNUSUAL = "■ • „ © € ® ¡ ⅛ ¶ \u0430 Ü ñ"
# As the hub's own file has them; `datasets` finds the data by the first, and the types by the second.
README = """\
---
configs:
- config_name: case_hold
  data_files:
  - {split: train, path: case_hold/train-*}
  - {split: validation, path: case_hold/validation-*}
  - {split: test, path: case_hold/test-*}
dataset_info:
- config_name: case_hold
  features:
  - {name: context, dtype: string}
  - {name: endings, sequence: string}
  - {name: label, dtype: {class_label: {names: {'0': '0', '1': '1', '2': '2', '3': '3', '4': '4'}}}}
---
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="new folder, for HF_HOME to name")
    parser.add_argument(
        "--rows", type=positive_int, nargs=3, default=[45_000, 3_900, 3_900], help="of train, validation and test"
    )
    parser.add_argument("--questions", default="../shared/casehold", help="folder or file of real questions, or demo")
    parser.add_argument("--tokenizer", type=Path, default="../shared/qwen2_tokenizer", help="folder of Qwen2's")
    merges = "keep the tokenizer's first N merges alone: a tiny model's time is else that of 151,643 tokens"
    parser.add_argument("--merges", type=positive_int, metavar="N", help=merges)
    parser.add_argument("--size", choices=SIZES, default="0.5b", help="architecture, in billions of weights")
    parser.add_argument("--seed", type=int, default=0, help="of texts and weights")
    args = parser.parse_args(argv)
    if args.output.exists():
        raise InputError(f"{args.output}: exists already; name a new folder with --output")
    with atomic_dir(args.output) as folder:
        write_data(folder, args.rows, args.questions, args.seed)
        write_model(folder / "hub", args)
    print(f"{args.output}: {' / '.join(f'{count:,}' for count in args.rows)} rows, and {HUB_MODEL} of {args.size}")
    print(f"use: HF_HOME={args.output} HF_HUB_OFFLINE=1 python train_sdpo.py --num-neg 4")
    return 0


def write_data(folder: Path, counts: Sequence[int], questions: str, seed: int) -> None:
    """The data set as the hub has it, a README and parquet, and as `datasets` prepares it on first use: offline it
    reads that alone."""
    disable_progress_bars()
    source = folder / CASEHOLD.repo.split("/")[1]
    (source / CASEHOLD.config).mkdir(parents=True)
    (source / "README.md").write_text(README, encoding="utf-8")
    for split, count in zip(("train", "validation", "test"), counts, strict=True):
        real = load_split(questions, split).questions
        drawn = list(make_rows(real, count, random.Random(f"{seed}/{split}")))
        columns = {name: [row[name] for row in drawn] for name in FEATURES}
        data = Dataset.from_dict(columns, features=FEATURES)
        data.to_parquet(source / CASEHOLD.config / f"{split}-00000-of-00001.parquet")
    builder = load_dataset_builder(str(source), CASEHOLD.config, cache_dir=str(folder / "prepared"))
    name = CASEHOLD.repo.replace("/", "___")
    builder.download_and_prepare(str(folder / "datasets" / name / CASEHOLD.config / "0.0.0" / REVISION))
    shutil.rmtree(folder / "prepared")


def make_rows(real: Sequence[Question], count: int, lots: random.Random) -> Iterator[dict]:
    """`count` rows spliced from the real questions, the oddities at even distances among them."""
    usual = iter(lambda: spliced_row(real, lots), None)
    odd = oddities(real)
    if count < len(odd):
        raise InputError(f"--rows {count}: the oddities alone are {len(odd)} rows")
    for number, row in enumerate(odd):
        room = count * (number + 1) // len(odd) - count * number // len(odd)
        yield from islice(usual, room - 1)
        yield row


def spliced_row(real: Sequence[Question], lots: random.Random) -> dict:
    question, other = lots.choice(real), lots.choice(real)
    endings = [splice(lots.choice(lots.choice(real).endings), ending, lots) for ending in question.endings]
    return {"context": splice(context_of(other), context_of(question), lots), "endings": endings} | label_of(question)


def splice(head: str, tail: str, lots: random.Random) -> str:
    """The beginning of one text and the end of another, as long as the other, cut where both have words and before the
    mask of either."""
    ends = [len(text) if (mask := text.find(MASK)) < 0 else mask for text in (head, tail)]
    cut = int(lots.random() * min(ends))
    kept, left = head.rfind(" ", 0, cut), tail.rfind(" ", 0, cut)
    return tail if min(kept, left) < 0 else head[:kept] + tail[left:]


def oddities(real: Sequence[Question]) -> list[dict]:
    """What real rows have been seen to hold, a row each."""
    longest = sorted(real, key=lambda question: len(context_of(question)))
    opinion = " ".join(context_of(question).replace(MASK, "") for question in real)
    while len(opinion) < LONG_ENDING:
        opinion += " " + opinion
    plain = cycle(real)

    def changed(place: int | None = None, ending: str = "", **columns) -> dict:
        """The next real row with other columns, or with another ending so many places after the gold."""
        question = next(plain)
        row = {"context": context_of(question), "endings": list(question.endings)} | label_of(question) | columns
        if place is not None:
            row["endings"][(row["label"] + place) % len(row["endings"])] = ending
        return row

    def equal(place: int, other: int) -> dict:
        row = changed()
        places = [(row["label"] + step) % len(row["endings"]) for step in (place, other)]
        row["endings"][places[0]] = row["endings"][places[1]]
        return row

    holding, words = real[0].endings[0].strip(), context_of(real[0]).split()
    return [
        changed(0, opinion[:LONG_ENDING]),
        changed(1, opinion[:LONG_ENDING]),
        changed(1, ""),
        changed(0, " "),
        equal(1, 2),
        equal(0, 1),
        changed(context=context_of(real[0]).replace(MASK, "")),
        changed(1, f"{holding} {UNUSUAL}", context=f"{UNUSUAL} {context_of(real[0])} {UNUSUAL}"),
        changed(1, f"  {holding.replace(' ', '    ')}   ", context=f"   {'   '.join(words)}   "),
        changed(1, f"\t{holding}\u00a0\n", context="\n\t".join(words) + "\u00a0\u2028"),
        changed(context=context_of(longest[-1])),
        changed(context=f"{context_of(longest[-2])} {context_of(longest[-1])}"),
        changed(context=f"{'habitual-offender-' * 20} {context_of(real[0])}"),
    ]


def context_of(question: Question) -> str:
    return question.fields["context"]


def label_of(question: Question) -> dict:
    return {"label": question.label}


def write_model(hub: Path, args: argparse.Namespace) -> None:
    """The model in the hub's cache: its files by hash, and a snapshot of names that lead to them."""
    repo = hub / f"models--{HUB_MODEL.replace('/', '--')}"
    blobs, snapshot = repo / "blobs", repo / "snapshots" / REVISION
    torch.manual_seed(args.seed)
    # Products then keep the size of what goes in, so that log-probs are as far apart as a real model's.
    changes = {"initializer_range": 1.6 * SIZES[args.size][0] ** -0.5}
    if args.merges:
        end = NUM_BYTES + args.merges
        changes |= {"vocab_size": end + NUM_SPECIAL, "bos_token_id": end, "eos_token_id": end}
    random_model(args.size, torch.bfloat16, **changes).save_pretrained(snapshot)
    # As the hub's file has it, which an older version wrote: with a window that is not in use.
    config = json.loads((snapshot / "config.json").read_text(encoding="utf-8"))
    config |= {"torch_dtype": config.pop("dtype"), "max_window_layers": len(config.pop("layer_types"))}
    config |= {"sliding_window": config["max_position_embeddings"], "transformers_version": "4.40.1"}
    (snapshot / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        shutil.copyfile(args.tokenizer / name, snapshot / name)
    if args.merges:
        cut_tokenizer(snapshot, args.merges)
    blobs.mkdir()
    for file in list(snapshot.iterdir()):
        with file.open("rb") as content:
            blob = blobs / hashlib.file_digest(content, "sha256").hexdigest()
        file.rename(blob)
        file.symlink_to(Path("..", "..", "blobs", blob.name))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(REVISION)


def cut_tokenizer(folder: Path, num_merges: int) -> None:
    """Leave so many merges in a Qwen2 tokenizer's files: there merge i makes token 256 + i, and special ones follow."""
    end = NUM_BYTES + num_merges
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model, added = whole["model"], whole["added_tokens"]
    model["merges"] = model["merges"][:num_merges]
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < end}
    places = {str(token["id"]): end + place for place, token in enumerate(added)}
    for token in added:
        token["id"] = places[str(token["id"])]
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    known = settings["added_tokens_decoder"]
    settings["added_tokens_decoder"] = {str(places[number]): token for number, token in known.items()}
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("#version")][:num_merges]
    (folder / "merges.txt").write_text("".join(kept), encoding="utf-8")
    for name, value in (("tokenizer", whole), ("tokenizer_config", settings), ("vocab", model["vocab"])):
        (folder / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
