"""The one exception for bad input, the exit codes every script keeps, and what a signal does."""

import signal
import sys
import traceback
from collections.abc import Callable

from safetensors import SafetensorError


class InputError(Exception):
    """Bad input, data or model: one line that names the file, line and field, and what to do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which process managers stop a program: the same as Ctrl-C but for the exit code."""


def terminate(signum, frame):
    raise Terminated


class StopRequest:
    """The first Ctrl-C or SIGTERM from now on is noted in `signum` (0 until then), so that what is under way can end
    and be saved; the second one interrupts at once."""

    def __init__(self):
        self.signum = 0
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._note)

    def _note(self, signum, frame):
        self.signum = signum
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, terminate)


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and leave with a true exit code: 0 success, 1 bad input or model, 2 bad flag (argparse),
    128 and the signal's number for an interruption (130 Ctrl-C, 143 SIGTERM)."""
    signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(main() or 0)
    except InputError as error:
        _fail(error, str(error))
    except Terminated:
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of our output is gone; closing stderr too stops Python's own message at shutdown.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        _fail(error, f"{error.filename or 'input or output'}: {error.strerror or error}")
    except SafetensorError as error:  # of a full disk, say
        _fail(error, f"weights could not be read or written: {first_line(error)}")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail(error, f"out of memory ({first_line(error)}); lower --batch-size, or train with --grad-checkpointing")


def _fail(error: BaseException, message: str) -> None:
    traceback.clear_frames(error.__traceback__)  # a progress bar that nobody closed ends here, not below the message
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def is_out_of_memory(error: Exception) -> bool:
    """Whether the GPU's memory was too small, or the machine's: torch has an exception for the first alone."""
    if isinstance(error, MemoryError):
        return True
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
