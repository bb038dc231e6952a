"""The project's scripts as processes that an interrupt reaches once, and that may save before they end."""

import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

from lib.errors import InputError
from lib.experiments.grid import Run
from lib.experiments.layout import UNTUNED, Layout
from lib.paths import ROOT, lock


class Scripts:
    """The scripts that this process has at work, for any number of threads.

    num_threads: of each on the CPU, None for the libraries' choice. lock: the descriptor of a locked file, which they
    inherit, so that it stays locked until they have ended too. die_with_us: where this process is killed they are, too.
    """

    def __init__(self, num_threads: int | None, lock: int, *, die_with_us: bool = False):
        self.environment = os.environ | ({} if num_threads is None else {"OMP_NUM_THREADS": str(num_threads)})
        self.lock, self.wrapper = lock, ["setpriv", "--pdeathsig", "KILL"] if die_with_us else []
        self.guard, self.stopping = threading.Lock(), False
        self.children: set[subprocess.Popen] = set()

    def make(self, layout: Layout, run: Run | None) -> None:
        """Run all that is `missing` of a run. Raises InputError for the first that fails, with its last line."""
        name = run.name if run else UNTUNED
        for script, *flags in layout.missing(run):
            log = layout.log(name)
            code = self._run([sys.executable, str(ROOT / script), *flags], name, log)
            if code:
                said = log.read_text(encoding="utf-8", errors="replace").splitlines()
                raise InputError(f"{name}: {script} ended with {code} ({said[-1] if said else 'silently'}); see {log}")

    def _run(self, command: list[str], name: str, log: Path) -> int:
        with log.open("ab") as output:
            with self.guard:
                if self.stopping:
                    raise InputError(f"{name}: stopped")
                child = subprocess.Popen(
                    [*self.wrapper, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    process_group=0,  # Ctrl-C comes from us alone: a second one would keep the run from saving
                    pass_fds=[self.lock],
                )
                self.children.add(child)
            try:
                return _code(child)
            except KeyboardInterrupt:  # in a task of Ray's, where SIGINT is blocked, for its children too
                child.terminate()
                child.wait()
                raise
            finally:
                with self.guard:
                    self.children.remove(child)

    def stop(self) -> None:
        """Start no more, and interrupt those at work."""
        with self.guard:
            self.stopping = True
            for child in self.children:
                child.terminate()  # SIGINT is ignored by what a shell began in the background


def _code(child: subprocess.Popen) -> int:
    """Its exit code, waited for in turns: Ray's interrupt is seen between two calls of the system alone."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=1)


def make_on_node(layout: Layout, run: Run | None, num_threads: int) -> None:
    """`Scripts.make` as a task on a cluster: where the node of an earlier attempt was lost, once its scripts are."""
    path = layout.log(run.name if run else UNTUNED).with_suffix(".lock")
    while (held := lock(path)) is None:
        time.sleep(1)  # not within a wait that Ray's interrupt cannot end
    with closing(held):
        Scripts(num_threads, held.fileno(), die_with_us=bool(shutil.which("setpriv"))).make(layout, run)
        path.unlink(missing_ok=True)
