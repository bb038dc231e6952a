"""Ray, an optional library: a cluster joined by its address or started on this machine, and tasks that outlive a node.

What a task needs is sent to it, or lies in folders that every machine sees at the same path, this checkout among them.
"""

import logging
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from lib.errors import InputError, first_line, terminate
from lib.paths import ROOT

if TYPE_CHECKING:
    from ray import ObjectRef

REQUIREMENT = "ray==2.60.0"
Item = TypeVar("Item")
RETRIES = 20  # of a task whose node or process was lost: one that always takes its process with it must end
LOCAL = "local"  # the address of a cluster that is started here and ends with this process


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Ray, joined at `address` or started here (`LOCAL`), until the block ends.

    Raises InputError where Ray is not installed, or nothing answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters reaches us as an exception
    try:
        import ray
    except ImportError:
        raise InputError(f"Ray is not installed; type `pip install {REQUIREMENT}`") from None
    try:
        options = {"include_dashboard": False} if address == LOCAL else {}
        # Of where a worker finds modules Ray sends it two folders alone, the script's and that of the command.
        found = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        options["runtime_env"] = {"env_vars": {"PYTHONPATH": found}}
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--ray {address}: no Ray cluster answers there ({first_line(error)})") from None
    signal.signal(signal.SIGTERM, terminate)  # Ray's own would leave nothing time to save
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Shared:
    packed: "ObjectRef"


@lru_cache(maxsize=1)
def received(shared: Shared):
    """In a task, what `Tasks.share` was given. Pickled by us: numpy arrays that Ray unpacks cannot be written to, which
    some libraries refuse."""
    import ray

    return pickle.loads(ray.get(shared.packed))


class Tasks:
    """Tasks on the cluster, each with its share of a node. Where a node is lost, its tasks start again elsewhere."""

    def __init__(self, num_cpus: float, num_gpus: float, at_once: int):
        """at_once: as many as the cluster has room for."""
        self.at_once, self.num_threads = at_once, max(1, int(num_cpus))
        self.options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": RETRIES}
        self.known: dict[Callable, Callable] = {}  # a function to the task that Ray has made of it
        self.at_work: set[ObjectRef] = set()

    def share(self, value) -> "Shared":
        """A value that is sent to each node once, and unpacked by each of its processes once: an argument of `submit`
        that the function passes to `received`."""
        import ray

        return Shared(ray.put(pickle.dumps(value)))

    def submit(self, function: Callable, *arguments) -> Future:
        """As of an executor; `function` stands at the top of a module. What it raises is raised by the future."""
        import ray

        if function not in self.known:
            self.known[function] = ray.remote(**self.options)(function)
        ref = self.known[function].remote(*arguments)
        self.at_work.add(ref)
        result: Future = Future()

        def done(finished: Future) -> None:
            self.at_work.discard(ref)
            if error := finished.exception():
                result.set_exception(_cause(error))
            else:
                result.set_result(finished.result())

        ref.future().add_done_callback(done)
        return result

    def stop(self) -> None:
        """Raise KeyboardInterrupt within each task, and wait until all have ended."""
        import ray

        refs = list(self.at_work)
        for ref in refs:
            ray.cancel(ref)
        if refs:
            ray.wait(refs, num_returns=len(refs))


def _cause(error: BaseException) -> BaseException:
    """What a task raised, or in one line why Ray gave it up."""
    from ray.exceptions import RayError, TaskCancelledError

    cause = getattr(error, "cause", None) or error
    if isinstance(cause, RayError) and not isinstance(cause, TaskCancelledError):
        return InputError(f"Ray gave a task up: {first_line(cause)}")
    return cause


@contextmanager
def tasks_on(address: str, jobs: int | None = None, gpus_per_task: float | None = None) -> Iterator[Tasks]:
    """The `cluster` at `address` for tasks of which `jobs` share the CPUs of its smallest node (None: a CPU each), or
    as many as its GPUs suffice for."""
    with cluster(address):
        nodes = [resources for resources in resources_of_nodes() if resources.get("GPU", 0) >= (gpus_per_task or 0)]
        if not nodes:
            raise InputError(f"--gpus-per-run {gpus_per_task:g}: no node of the cluster has as many GPUs")
        if gpus_per_task:
            jobs = max(int(node["GPU"] / gpus_per_task) for node in nodes)
        smallest = min(node["CPU"] for node in nodes)
        num_cpus = smallest // jobs or smallest / jobs if jobs else 1
        yield Tasks(num_cpus, gpus_per_task or 0, max(1, sum(int(node["CPU"] / num_cpus) for node in nodes)))


def resources_of_nodes() -> list[dict[str, float]]:
    """The resources of each node that lives and has a CPU to give. Raises InputError where there is none."""
    import ray

    found = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not found:
        raise InputError("no node of the Ray cluster has a CPU to give")
    return found


def in_order(submit: Callable[[Item], Future], items: Iterable[Item], ahead: int) -> Iterator[tuple[Item, Any]]:
    """Each item and what became of it, in their order; at most `ahead` of them are under way."""
    waiting: deque[tuple[Item, Future]] = deque()
    for item in items:
        waiting.append((item, submit(item)))
        if len(waiting) >= ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()
