"""Progress bars that suit a terminal and a log alike."""

import sys

from tqdm import tqdm

LOG_SECONDS = 10.0  # between two lines of a bar where nobody watches it move


def progress(*args, **kwargs) -> tqdm:
    """tqdm's bar; where stderr is no terminal, a line every `LOG_SECONDS` at most."""
    if not sys.stderr.isatty():
        kwargs = {"mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS} | kwargs
    return tqdm(*args, **kwargs)
