"""A grid of runs, each trained and evaluated by the project's own scripts in processes of their own, on this machine
or on a cluster. Whatever is whole in the sweep's folder is not made again; a run that was cut short goes on from its
checkpoint."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from lib.begun import begin
from lib.cluster import Tasks
from lib.errors import InputError
from lib.experiments.grid import Run
from lib.experiments.layout import SPLITS, Layout
from lib.experiments.scripts import Scripts, make_on_node
from lib.models.sources import NAMES
from lib.paths import INCOMPLETE, lock
from lib.progress import progress
from lib.questions.hub_data import CASEHOLD

SWEEP_FILE = "sweep.json"
PATHS = ("model", "data", "candidates")  # settings that may be one
NAMED = (*NAMES, CASEHOLD.name)  # which are none, whatever lies in the working folder


class Sweep(Layout):
    """The folder of a sweep, locked while it is open."""

    def __init__(self, folder: Path, settings: Mapping, *, score: str = "sum", splits: Sequence[str] = SPLITS):
        """As of `Layout`. Raises InputError where the folder was begun with other settings."""
        super().__init__(folder, dict(settings), score, splits)
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        # The scripts inherit it: after a kill of this process alone, the lock is held until they have ended too.
        waiting = "a process of another sweep, or of one that was killed, still works here; waiting for it"
        self.lock = lock(folder / ".lock", waiting=waiting)
        for left in folder.glob(f"*{INCOMPLETE}"):  # of a report, by a process that was killed
            left.unlink(missing_ok=True)
        try:
            begin(folder / SWEEP_FILE, self.settings | {"score": self.score})
        except InputError:
            self.lock.close()
            raise

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *exception) -> None:
        self.lock.close()

    def perform(self, runs: Sequence[Run], jobs: int) -> None:
        """Make what is missing of the untuned model and of `runs` on this machine, `jobs` at a time.

        One run that fails does not stop the others; raises InputError in the end. An interrupt reaches every script
        once and waits until they have saved.
        """
        # More threads than cores would make each run slower than alone.
        num_threads = None if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)
        scripts, layout = Scripts(num_threads, self.lock.fileno()), self._anywhere()
        with ThreadPoolExecutor(jobs) as pool:
            self._perform(runs, lambda run: pool.submit(scripts.make, layout, run), scripts.stop)

    def perform_on(self, tasks: Tasks, runs: Sequence[Run]) -> None:
        """The same on a cluster that sees the sweep's folder, each run a task; a lost node's runs go on elsewhere."""
        layout = self._anywhere()
        self._perform(runs, lambda run: tasks.submit(make_on_node, layout, run, tasks.num_threads), tasks.stop)

    def _anywhere(self) -> Layout:
        """The same in any working folder: a run that was begun in one goes on in another, on another machine."""
        found = {name: value for name in PATHS if (value := self.settings.get(name)) and value not in NAMED}
        paths = {name: str(Path(value).resolve()) for name, value in found.items() if Path(value).exists()}
        return Layout(self.folder.resolve(), self.settings | paths, self.score, self.splits)

    def _perform(self, runs: Sequence[Run], submit: Callable[[Run | None], Future], stop: Callable[[], None]) -> None:
        todo = [run for run in runs if not self.is_done(run)]
        failures = []
        with progress(total=len(runs), initial=len(runs) - len(todo), desc="sweep", unit="run", smoothing=0) as bar:
            try:
                # Alone and first: it finds out whether model and data can be read, and makes what all others share.
                submit(None).result()
                for future in as_completed([submit(run) for run in todo]):
                    if error := future.exception():
                        if not isinstance(error, InputError):
                            raise error
                        failures.append(str(error))
                        bar.write(str(error))
                    bar.update()
            except BaseException:
                stop()
                raise
        if failures:
            raise InputError(f"{len(failures)} of {len(runs)} runs failed; {failures[0]}")
