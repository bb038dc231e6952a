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

if TYPE_CHECKING:
    from ray import ObjectRef

REQUIREMENT = "ray==2.60.0"
Item = TypeVar("Item")
LOCAL = "local"  # the address of a cluster that is started here and ends with this process


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Ray, joined at `address` or started here (`LOCAL`), until the block ends.

    Raises InputError where Ray is not installed, or nothing answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters reaches us as an exception
    try:
        import ray
    except ImportError:
        raise InputError(f"Ray is not installed; type `pip install {REQUIREMENT}`") from None
    try:
        dashboard = {"include_dashboard": False} if address == LOCAL else {}
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **dashboard)
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
        self.num_cpus, self.num_gpus, self.at_once = num_cpus, num_gpus, at_once
        self.at_work: set[ObjectRef] = set()

    def share(self, value) -> "Shared":
        """A value that is sent to each node once, and unpacked by each of its processes once: an argument of `submit`
        that the function passes to `received`."""
        import ray

        return Shared(ray.put(pickle.dumps(value)))

    def submit(self, function: Callable, *arguments) -> Future:
        """As of an executor; `function` stands at the top of a module. What it raises is raised by the future."""
        import ray

        task = ray.remote(num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=-1)(function)
        ref = task.remote(*arguments)
        self.at_work.add(ref)
        result: Future = Future()

        def done(finished: Future) -> None:
            self.at_work.discard(ref)
            if error := finished.exception():
                result.set_exception(getattr(error, "cause", None) or error)
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


@contextmanager
def tasks_on(address: str, jobs: int | None = None, gpus_per_task: float | None = None) -> Iterator[Tasks]:
    """The `cluster` at `address` for tasks of which `jobs` share the CPUs of its smallest node (None: a CPU each), or
    as many as its GPUs suffice for."""
    with cluster(address):
        nodes = _nodes()
        if gpus_per_task:
            nodes = [node for node in nodes if node.get("GPU", 0) >= gpus_per_task]
            if not nodes:
                raise InputError(f"--gpus-per-run {gpus_per_task}: no node of the cluster has as many GPUs")
            jobs = max(int(node["GPU"] / gpus_per_task) for node in nodes)
        cpus = [int(node.get("CPU", 0)) for node in nodes]
        num_cpus = max(1, min(cpus) // jobs) if jobs else 1
        yield Tasks(num_cpus, gpus_per_task or 0, max(1, sum(count // num_cpus for count in cpus)))


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that lives."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


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
