"""Ray, an optional library: a cluster joined by its address or started on this machine, and tasks that outlive a node.

What a task needs is sent to it, or lies in folders that every machine sees at the same path, this checkout among them.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lib.errors import InputError, first_line, terminate

if TYPE_CHECKING:
    from ray import ObjectRef

REQUIREMENT = "ray==2.60.0"
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
        ray.init(address, include_dashboard=False if address == LOCAL else None, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--ray {address}: no Ray cluster answers there ({first_line(error)})") from None
    signal.signal(signal.SIGTERM, terminate)  # Ray's own would leave nothing time to save
    try:
        yield
    finally:
        ray.shutdown()


class Tasks:
    """Tasks on the cluster, each with its share of a node. Where a node is lost, its tasks start again elsewhere."""

    def __init__(self, num_cpus: float, num_gpus: float = 0):
        self.num_cpus, self.num_gpus = num_cpus, num_gpus
        self.refs: list[ObjectRef] = []

    def submit(self, function: Callable, *arguments) -> Future:
        """As of an executor; `function` stands at the top of a module. What it raises is raised by the future."""
        import ray

        task = ray.remote(num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=-1)(function)
        self.refs.append(task.remote(*arguments))
        return _unwrapped(self.refs[-1].future())

    def stop(self) -> None:
        """Raise KeyboardInterrupt within each task, and wait until all have ended."""
        import ray

        for ref in self.refs:
            ray.cancel(ref)
        ray.wait(self.refs, num_returns=len(self.refs))


@contextmanager
def tasks_on(address: str, jobs: int, gpus_per_task: float | None) -> Iterator[Tasks]:
    """The `cluster` at `address` for tasks of which `jobs` share the CPUs of its smallest node, or as many as its GPUs
    suffice for."""
    with cluster(address):
        nodes = _nodes()
        if gpus_per_task:
            nodes = [node for node in nodes if node.get("GPU", 0) >= gpus_per_task]
            if not nodes:
                raise InputError(f"--gpus-per-run {gpus_per_task}: no node of the cluster has as many GPUs")
            jobs = max(int(node["GPU"] / gpus_per_task) for node in nodes)
        yield Tasks(max(1, min(node.get("CPU", 1) for node in nodes) // jobs), gpus_per_task or 0)


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that lives."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _unwrapped(found: Future) -> Future:
    """The future with Ray's exceptions as what they were in the task."""
    result: Future = Future()

    def done(finished: Future) -> None:
        if error := finished.exception():
            result.set_exception(getattr(error, "cause", None) or error)
        else:
            result.set_result(finished.result())

    found.add_done_callback(done)
    return result


def in_order(function: Callable, items: Iterable, num_cpus: float = 1) -> Iterator:
    """`function(item)` of each, by tasks on the cluster, in their order."""
    import ray

    task = ray.remote(num_cpus=num_cpus, max_retries=-1)(lambda item: function(item))  # it may be a partial one
    for ref in [task.remote(item) for item in items]:
        yield ray.get(ref)
