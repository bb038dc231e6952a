"""Seconds, by events on a GPU and by the clock elsewhere; of a command, with the memory that it takes."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from lib.errors import InputError


def stopwatch(device: torch.device) -> Callable[[], float]:
    """A function that gives the seconds since now, once the device has done what it was given."""
    if device.type != "cuda":
        began = time.perf_counter()
        return lambda: time.perf_counter() - began
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()

    def stop() -> float:
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    return stop


def measured(command: Sequence) -> tuple[float, float]:
    """Seconds and peak megabytes of a command with all that it starts. Raises InputError where it fails."""
    began, peak = time.monotonic(), 0.0
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen([*map(str, command)], stdout=said, stderr=said)
        while child.poll() is None:
            with suppress(psutil.NoSuchProcess):  # it ended just now
                peak = max(peak, megabytes(psutil.Process(child.pid)))
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=0.5)
        if child.returncode:
            said.seek(0)
            raise InputError(f"{Path(command[0]).name} ended with {child.returncode}: {said.read()[-500:]}")
    return time.monotonic() - began, peak


def megabytes(process: psutil.Process) -> float:
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it has ended meanwhile
            continue
    return total / 1e6
