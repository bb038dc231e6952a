"""Progress bars that suit a terminal and a log alike."""

import os
import sys

from tqdm import tqdm

LOG_SECONDS = 10.0  # between two lines of a bar where nobody watches it move
BRIEF = 1.0  # seconds: the `delay` of a bar over what is mostly done before anyone could read it


def progress(*args, **kwargs) -> tqdm:
    """tqdm's bar; where stderr is no terminal, a line every `LOG_SECONDS` at most. Of the processes that torchrun or
    accelerate start, the first alone shows one."""
    kwargs = {"disable": os.environ.get("RANK", "0") != "0"} | kwargs
    if not sys.stderr.isatty():
        kwargs = {"mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS} | kwargs
    return tqdm(*args, **kwargs)
