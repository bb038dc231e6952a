"""The one exception for bad input, and the exit codes every script keeps."""

import sys
from collections.abc import Callable


class InputError(Exception):
    """Bad input, data or model: one line that names the file, line and field, and what to do."""


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and leave with a true exit code: 0 success, 1 bad input or model, 2 bad flag (argparse),
    130 interrupted."""
    try:
        sys.exit(main() or 0)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output is gone; closing stderr too stops Python's own message at shutdown.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
