"""The folder of a sweep: what lies where, what of it is whole, and the scripts that make what is missing.

`sweep.json` (what all runs share), `runs/NAME` with the predictions beside the adapter, and `logs/NAME.log` (what the
scripts said).
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.cli import flag
from lib.evaluation.predictions import by_score, predictions_file
from lib.experiments.grid import Run
from lib.models.runs import RUN_FILE, read_run
from lib.questions.prompt_config import PROMPT_FILE

SPLITS = ("validation", "test")
UNTUNED = "untuned"
EVALUATED_WITH = ("data", "candidates", "limit", "precision")  # of the settings, those that eval_mc.py knows


def shared_flags(settings: Mapping) -> list[str]:
    return [text for name, value in settings.items() if value is not None for text in (flag(name), str(value))]


@dataclass
class Layout:
    """settings: flags of train_sdpo.py that all runs share, by name; None leaves its default. score: eval_mc.py's; the
    untuned model, which has no reference, is evaluated by "sum" in the place of "reward". splits: those that are
    evaluated; training has done so for validation."""

    folder: Path
    settings: Mapping
    score: str
    splits: Sequence[str]

    def run_folder(self, name: str) -> Path:
        return self.folder / "runs" / name

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def predictions(self, name: str, split: str, score: str | None = None) -> Path:
        """The file of a run's predictions by `score`, None for the sweep's own."""
        return by_score(self.run_folder(name) / predictions_file(split), score or self._score_of(name))

    def _score_of(self, name: str) -> str:
        return "sum" if name == UNTUNED and self.score == "reward" else self.score

    def is_done(self, run: Run) -> bool:
        return self._is_trained(run) and all(self._is_evaluated(run.name, split) for split in self.splits)

    def _is_evaluated(self, name: str, split: str) -> bool:
        # Of a file for each score, the last one that is written.
        last = ("pmi" if name == UNTUNED else "reward") if self.score == "all" else None
        return self.predictions(name, split, last).exists()

    def _is_trained(self, run: Run) -> bool:
        folder = self.run_folder(run.name)
        return (folder / RUN_FILE).exists() and read_run(folder)["finished"]

    def missing(self, run: Run | None) -> Iterator[list[str]]:
        """The scripts, with their flags, that still have to run for `run`, or for the untuned model (None): each is
        given out once the one before it has ended."""
        if run is None:
            yield from self._evaluations(UNTUNED, self.settings["model"])
            return
        folder = self.run_folder(run.name)
        if not self._is_trained(run):
            if (folder / RUN_FILE).exists():
                flags = ["--resume"]  # with the settings that it was begun with
            else:
                shutil.rmtree(folder, ignore_errors=True)  # killed before there was anything to go on with
                flags = [*shared_flags(self.settings), *run.flags]
            yield ["train_sdpo.py", *flags, "--output", str(folder)]
        yield from self._evaluations(run.name, str(folder))

    def _evaluations(self, name: str, model: str) -> Iterator[list[str]]:
        shared = shared_flags({key: self.settings.get(key) for key in EVALUATED_WITH})
        if name == UNTUNED and (self.folder / PROMPT_FILE).exists():
            shared += ["--contract", str(self.folder)]
        score = self._score_of(name)
        for split in self.splits:
            if not self._is_evaluated(name, split):
                path = self.run_folder(name) / predictions_file(split)
                path = path if score == "all" else by_score(path, score)
                flags = ["--split", split, "--model", model, "--score", score, *shared, "--output", str(path)]
                yield ["eval_mc.py", *flags]
