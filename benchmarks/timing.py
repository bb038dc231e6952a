"""Seconds, by events on a GPU and by the clock elsewhere."""

import time
from collections.abc import Callable

import torch


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
