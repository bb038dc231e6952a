"""A grid of runs, each trained and evaluated by the project's own scripts in processes of their own.

In the sweep's folder: `sweep.json` (what all runs share), `runs/NAME` with the predictions beside the adapter, and
`logs/NAME.log` (what the scripts said). Whatever is whole there is not made again; a run that was cut short goes on
from its checkpoint.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from lib.cli import flag
from lib.errors import InputError
from lib.evaluation.predictions import by_score, predictions_file
from lib.experiments.grid import Run
from lib.models.runs import RUN_FILE, read_run
from lib.paths import ROOT, atomic_file, lock
from lib.progress import progress
from lib.questions.prompt_config import PROMPT_FILE

SPLITS = ("validation", "test")
UNTUNED = "untuned"
SWEEP_FILE = "sweep.json"
EVALUATED_WITH = ("data", "candidates", "limit", "precision")  # of the settings, those that eval_mc.py knows


def shared_flags(settings: Mapping) -> list[str]:
    return [text for name, value in settings.items() if value is not None for text in (flag(name), str(value))]


class Sweep:
    """The folder of a sweep, locked while it is open, and the scripts that work in it now."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping,
        num_threads: int | None,
        *,
        score: str = "sum",
        splits: Sequence[str] = SPLITS,
    ):
        """settings: flags of train_sdpo.py that all runs share, by name; None leaves its default. num_threads: of each
        process on the CPU, None for the libraries' choice. score: eval_mc.py's; the untuned model, which has no
        reference, is evaluated by "sum" in the place of "reward". splits: those that are evaluated; training has
        done so for validation.

        Raises InputError where the folder was begun with other settings.
        """
        self.folder, self.settings, self.score, self.splits = folder, dict(settings), score, splits
        self.environment = os.environ | ({} if num_threads is None else {"OMP_NUM_THREADS": str(num_threads)})
        self.guard, self.stopping = threading.Lock(), False
        self.children: set[subprocess.Popen] = set()
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        # The scripts inherit it: after a kill of this process alone, the lock is held until they have ended too.
        waiting = "a process of another sweep, or of one that was killed, still works here; waiting for it"
        self.lock = lock(folder / ".lock", waiting=waiting)
        try:
            self._compare_settings()
        except InputError:
            self.lock.close()
            raise

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *exception) -> None:
        self.lock.close()

    def _compare_settings(self) -> None:
        path, settings = self.folder / SWEEP_FILE, self.settings | {"score": self.score}
        if not path.exists():
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: broken ({error}); choose another --output") from None
        for name, value in settings.items():
            begun = saved.get(name)
            if begun != value:
                raise InputError(f"{path}: begun with {flag(name)} {begun}, not {value}; choose another --output")

    def run_folder(self, name: str) -> Path:
        return self.folder / "runs" / name

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

    def perform(self, runs: Sequence[Run], jobs: int) -> None:
        """Make what is missing of the untuned model and of `runs`, `jobs` at a time.

        One run that fails does not stop the others; raises InputError in the end. An interrupt reaches every script
        once and waits until they have saved.
        """
        todo = [run for run in runs if not self.is_done(run)]
        failures = []
        with progress(total=len(runs), initial=len(runs) - len(todo), desc="sweep", unit="run", smoothing=0) as bar:
            pool = ThreadPoolExecutor(jobs)
            try:
                # Alone and first: it finds out whether model and data can be read, and makes what all others share.
                pool.submit(self._evaluate, UNTUNED, self.settings["model"]).result()
                futures = [pool.submit(self._make, run) for run in todo]
                for future in as_completed(futures):
                    if error := future.exception():
                        if not isinstance(error, InputError):
                            raise error
                        failures.append(str(error))
                        bar.write(str(error))
                    bar.update()
            except BaseException:
                self._stop()
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        if failures:
            raise InputError(f"{len(failures)} of {len(runs)} runs failed; {failures[0]}")

    def _make(self, run: Run) -> None:
        folder = self.run_folder(run.name)
        if not self._is_trained(run):
            resume = ["--resume"] if (folder / RUN_FILE).exists() else []
            if not resume:
                shutil.rmtree(folder, ignore_errors=True)  # killed before there was anything to go on with
            flags = [*shared_flags(self.settings), *run.flags, "--output", str(folder), *resume]
            self._script(run.name, "train_sdpo.py", *flags)
        self._evaluate(run.name, str(folder))

    def _evaluate(self, name: str, model: str) -> None:
        shared = shared_flags({key: self.settings.get(key) for key in EVALUATED_WITH})
        if name == UNTUNED and (self.folder / PROMPT_FILE).exists():
            shared += ["--contract", str(self.folder)]
        score = self._score_of(name)
        for split in self.splits:
            if not self._is_evaluated(name, split):
                path = self.run_folder(name) / predictions_file(split)
                path = path if score == "all" else by_score(path, score)
                flags = ["--split", split, "--model", model, "--score", score, *shared, "--output", str(path)]
                self._script(name, "eval_mc.py", *flags)

    def _script(self, name: str, script: str, *flags: str) -> None:
        log = self.folder / "logs" / f"{name}.log"
        with log.open("ab") as output:
            with self.guard:
                if self.stopping:
                    raise InputError(f"{name}: stopped")
                child = subprocess.Popen(
                    [sys.executable, str(ROOT / script), *flags],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    process_group=0,  # Ctrl-C comes from us alone: a second one would keep the run from saving
                    pass_fds=[self.lock.fileno()],
                )
                self.children.add(child)
            code = child.wait()
            with self.guard:
                self.children.remove(child)
        if code:
            said = log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise InputError(f"{name}: {script} ended with {code} ({said[-1] if said else 'silently'}); see {log}")

    def _stop(self) -> None:
        with self.guard:
            self.stopping = True
            for child in self.children:
                child.send_signal(signal.SIGINT)
