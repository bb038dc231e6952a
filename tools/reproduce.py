#!/usr/bin/env python
"""The tables of Marsh and of SWEPO from text alone: a model made here, real CaseHOLD questions, the best run shipped.

python tools/reproduce.py --size cpu --casehold DIR --opinions DIR --output runs/reproduce
python tools/reproduce.py --size pretrained --base smollm2 --casehold DIR --opinions DIR DIR --output runs/pretrained

Sets training questions aside to choose by, mines others of the opinions, pretrains a model on them (--size pretrained
takes one from elsewhere), runs the grid (S-DPO with each number of negatives, each loss), tries what may raise
accuracy, chooses on validation, tests that run once, exports it and scores it in C++. Opinions that share 13
consecutive words with validation or test are left out first. Stopped or killed at any moment, the same command goes
on; --minutes 10 stops by itself. In --output: report.md, and a folder for each stage.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.begun import begin
from lib.cli import HelpFormatter, parse_typed, positive_float
from lib.errors import InputError, run_script
from lib.evaluation.predictions import by_score, predictions_file
from lib.experiments.layout import UNTUNED, shared_flags
from lib.experiments.reproduction import Shipped, reproduction_report
from lib.experiments.sizes import FROM_GRID, FULL, MINED, NUM_NEG, REAL, SEED, SIZES, TWINS, VARIATIONS
from lib.experiments.sweep import Sweep
from lib.experiments.variations import Outcome, Variation, best, outcomes
from lib.mining.propositions import PROPOSITION
from lib.models.device import default_device, has_bf16_products
from lib.models.runs import RUN_FILE, read_run
from lib.paths import ROOT, atomic_dir, atomic_file
from lib.questions.data import load_split
from lib.questions.readers import find_split, read_rows
from lib.questions.template import render
from lib.training.losses import LOSSES


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("--size", choices=SIZES, default="cpu", help="cpu, pretrained: two cores, hours; gpu: one card")
    parser.add_argument("--base", default="smollm2", metavar="MODEL", help="what --size pretrained tunes")
    parser.add_argument("--casehold", type=Path, required=True, help="folder with train, validation and test")
    parser.add_argument("--opinions", type=Path, nargs="+", required=True, help="folders or files of opinions")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/reproduce"), help="folder, to go on with if it exists"
    )
    parser.add_argument("--minutes", type=positive_float, help="stop after so many, to go on later")
    return parser


def check_inputs(args: argparse.Namespace) -> None:
    """Raises InputError for what would be found out only once --output has been begun with it."""
    if (Path(args.base) / RUN_FILE).exists():
        raise InputError(f"{args.base}: a finished run; --base takes a model that has not been tuned")
    if not args.casehold.is_dir():
        raise InputError(f"{args.casehold}: no such folder; --casehold takes one with train, validation and test")
    for split in ("train", "validation", "test"):
        find_split(str(args.casehold.resolve()), split)
    for path in args.opinions:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; --opinions takes those with opinions")


def rows_of(folder: Path, split: str) -> list[dict]:
    """The questions of a split in one form, whatever they were in: mined ones and others of it come into one file."""
    data = load_split(str(folder), split)
    return [
        {
            "id": question.id,
            "context": "".join(render(data.default_template, question)),
            "endings": list(question.endings),
            "label": question.label,
        }
        for question in data.questions
    ]


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class Reproduction:
    """The stages, each left alone where its result stands already."""

    def __init__(self, args: argparse.Namespace):
        self.size, self.output = SIZES[args.size], args.output
        self.given = args.casehold.resolve()  # no name of the hub's
        self.casehold, self.mined = self.output / "casehold", self.output / "mined"
        self.opinions = [path.resolve() for path in args.opinions]
        self.output.mkdir(parents=True, exist_ok=True)
        self.training = dict(self.size["train"])
        if self.training.get("precision") == "bf16" and not has_bf16_products(default_device()):
            self.training["precision"] = "fp32"
        begun = {"size": args.size, "base": args.base, "casehold": str(self.given)}
        record = self.output / "reproduce.json"
        # One of an older version has none.
        if not record.exists() or '"training"' in record.read_text(encoding="utf-8"):
            begun["training"] = self.training
        begin(record, begun | {"opinions": [str(path) for path in self.opinions]})
        self.model = self.output / "model" if self.size["pretrain"] else args.base

    def script(self, name: str, *flags) -> None:
        """Run one of the project's scripts; raises KeyboardInterrupt where it was interrupted and saved."""
        self.program(name, sys.executable, ROOT / name, *flags)

    def program(self, name: str, *command) -> None:
        child = subprocess.Popen(list(map(str, command)), process_group=0)
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.terminate()  # SIGINT is ignored by what a shell began in the background
            child.wait()
            raise
        if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            raise KeyboardInterrupt
        if code:
            raise InputError(f"{name} ended with {code}; the same command goes on")

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds spent, interrupted or not, to the stage's in seconds.json."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = self.seconds()
            seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - began
            with atomic_file(self.output / "seconds.json") as temporary:
                temporary.write_text(json.dumps(seconds, indent=2) + "\n", encoding="utf-8")

    def seconds(self) -> dict[str, float]:
        path = self.output / "seconds.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def set_aside(self) -> None:
        """casehold: the questions that were given, some of train moved to validation by the seed."""
        if self.casehold.exists():
            return
        train, validation, test = (rows_of(self.given, split) for split in ("train", "validation", "test"))
        random.Random(SEED).shuffle(train)
        count = self.size["aside"]
        aside = [row | {"id": f"aside-{row['id']}"} for row in train[:count]]
        with atomic_dir(self.casehold) as folder:
            write_rows(folder / "train.jsonl", train[count:])
            write_rows(folder / "validation.jsonl", validation + aside)
            write_rows(folder / "test.jsonl", test)

    def mine(self) -> None:
        if not self.mined.exists():
            flags = ["--exclude", self.casehold, "--propositions", "--validation-share", 0, "--test-share", 0]
            self.script("tools/mine_holdings.py", *self.opinions, *flags, "--output", self.mined)

    def mix(self) -> None:
        """Training splits: questions, of the grid's size; real, with more of CaseHOLD's; mined, one of the two with
        mined holdings and then propositions on top. Validation and test are CaseHOLD's."""
        real, mined = ([row for _, row in read_rows(folder / "train.jsonl")] for folder in (self.casehold, self.mined))
        random.Random(SEED).shuffle(mined)
        mined.sort(key=lambda row: str(row["id"]).startswith(f"{PROPOSITION}-"))
        mined = [row | {"id": f"mined-{row['id']}"} for row in mined]  # else a question of CaseHOLD may have it
        kinds = {"questions": real[: self.size["questions"]], "real": real[: self.size["real"]]}
        joined, most = self.size["mined"]
        kinds["with-mined"] = (kinds[joined] + mined)[:most]
        for name, kept in kinds.items():
            if not (self.output / name).exists():
                with atomic_dir(self.output / name) as folder:
                    write_rows(folder / "train.jsonl", kept)
                    for split in ("validation", "test"):
                        shutil.copy(self.casehold / f"{split}.jsonl", folder / f"{split}.jsonl")

    def pretrain(self) -> None:
        if not self.size["pretrain"]:
            return
        if (self.model / "pretraining" / RUN_FILE).exists():
            if read_run(self.model / "pretraining")["finished"]:
                return
            flags = ["--resume"]
        else:
            shutil.rmtree(self.model, ignore_errors=True)  # killed before there was anything to go on with
            flags = ["--text", *self.opinions, "--questions", self.casehold, "--exclude", self.casehold]
            flags += self.size["pretrain"]
        self.script("tools/pretrain_lm.py", *flags, "--output", self.model)

    def untuned(self) -> None:
        """By every score, where the grid and the variations look for it, on all cores."""
        path = self.output / "grid" / "runs" / UNTUNED / predictions_file("validation")
        if not by_score(path, "pmi").exists():
            flags = ["--split", "validation", "--score", "all", "--model", self.model, "--data", self.settings["data"]]
            flags += ["--precision", self.precision, "--output", path]
            self.script("eval_mc.py", *flags)

    def grid(self) -> None:
        losses = [name for name in LOSSES if name not in TWINS]
        flags = ["--loss", *losses, "--every-num-neg", "sdpo", "--every-seed", "sdpo", "--seed", "0", "1", "2"]
        flags += ["--every-seed-num-neg", 1, NUM_NEG, "--num-neg", *range(1, NUM_NEG + 1), "--split", "validation"]
        flags += ["--score", self.size["score"], "--jobs", self.size["jobs"], *shared_flags(self.settings)]
        if not (self.output / "grid" / "report.md").exists():
            self.script("tools/sweep.py", *flags, "--output", self.output / "grid")

    @property
    def precision(self) -> str:
        """That is trained in, and that suffices in PyTorch: what is shipped is exported in fp32."""
        return self.training.get("precision", "auto")

    @property
    def settings(self) -> dict:
        return {"model": str(self.model), "data": str(self.output / "questions"), **self.training}

    def vary(self) -> list[Outcome]:
        """What single changes give on validation."""
        stands_for = {REAL: self.output / "real", MINED: self.output / "with-mined", FULL: self.size["full"]}
        for name, run in FROM_GRID.items():
            if not (self.output / "variations" / "runs" / name).exists():
                with atomic_dir(self.output / "variations" / "runs" / name) as folder:
                    shutil.copytree(self.output / "grid" / "runs" / run, folder, dirs_exist_ok=True)
        variations = [
            Variation(one.name, tuple(str(stands_for.get(flag, flag)) for flag in one.flags))
            for one in VARIATIONS
            if one.name not in self.size["left_out"]
        ]
        with Sweep(self.output / "variations", self.settings, score="all", splits=["validation"]) as sweep:
            sweep.perform(variations, self.size["jobs"])
            return outcomes(sweep, variations, self.size["score"])

    def ship(self, name: str, score: str) -> list[Shipped]:
        """The chosen run and its untuned base, under the run's prompt, on the test questions, in PyTorch; and the run
        exported and in C++."""
        folder, run = self.output / "best", self.output / "variations" / "runs" / name
        folder.mkdir(exist_ok=True)
        test, data = self.output / "questions" / "test.jsonl", self.output / "questions"
        untuned_score = "sum" if score == "reward" else score
        untuned = ["--model", self.model, "--contract", run]
        tuned = "tuned, PyTorch" + (" in bf16" if self.precision == "bf16" else "")
        made = [
            ("untuned", [*untuned, "--precision", self.precision], untuned_score, folder / "untuned.jsonl"),
            (tuned, ["--model", run, "--precision", self.precision], score, folder / "tuned.jsonl"),
        ]
        for _, model, by, path in made:
            if not path.exists():
                self.script("eval_mc.py", "--data", data, *model, "--score", by, "--output", path)
        rows = [Shipped(title, path) for title, _, _, path in made]
        self.program("tools/build_scorer.sh", ROOT / "tools" / "build_scorer.sh")
        for form in ("none", "int8"):
            paths = {}
            for source, model in (("tuned", ["--model", run]), ("base", untuned)):
                paths[source] = folder / f"{source}.{form}.onnx"
                if not paths[source].exists() and (source == "tuned" or score == "reward"):
                    flags = ["--data", data, "--output", paths[source], "--quantize", form, "--max-flips", 1]
                    self.script("export.py", *model, *flags)
            by = ["--reference", paths["base"]] if score == "reward" else ["--score", score]
            predictions = folder / f"cpp.{form}.jsonl"
            flags = ["--model", paths["tuned"], "--input", test, *by, "--output", predictions]
            self.program("cpp_scorer/score", ROOT / "cpp_scorer" / "score", *flags)
            rows.append(Shipped(f"tuned, C++ {'fp32' if form == 'none' else form}", predictions))
        return rows


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    flags, typed = parse_typed(parser, argv)
    args = argparse.Namespace(**flags)
    if "base" in typed and SIZES[args.size]["pretrain"]:
        parser.error(f"--size {args.size} pretrains a model of its own; --base goes with --size pretrained")
    check_inputs(args)
    if args.minutes:
        # A shell has its background jobs ignore it, and the scripts would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        alarm = threading.Timer(args.minutes * 60, lambda: os.kill(os.getpid(), signal.SIGINT))
        alarm.daemon = True
        alarm.start()
    work = Reproduction(args)
    try:
        for stage in (work.set_aside, work.mine, work.mix, work.pretrain, work.untuned, work.grid):
            with work.timed(stage.__name__):
                stage()
        with work.timed("vary"):
            found = work.vary()
        chosen = best(found)
        with work.timed("ship"):
            shipped = work.ship(chosen.name, chosen.score)
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on where {args.output} stands", file=sys.stderr)
        raise
    with atomic_file(args.output / "report.md") as temporary:
        text = reproduction_report(args.output, args.size, work.seconds(), found, chosen, shipped)
        temporary.write_text(text, encoding="utf-8")
    print(f"{args.output / 'report.md'}: {sum(work.seconds().values()) / 60:.0f} minutes in all")
    return 0


if __name__ == "__main__":
    run_script(main)
