"""What a folder was begun with, so that nobody goes on there with something else."""

import json
from collections.abc import Mapping
from pathlib import Path

from lib.cli import flag
from lib.errors import InputError
from lib.paths import atomic_file


def as_json(settings: Mapping) -> str:
    return json.dumps(settings, indent=2) + "\n"


def begin(file: Path, settings: Mapping) -> None:
    """Write down in `file` what its folder is begun with, or compare with what stands there; see `compare`."""
    if not file.exists():
        with atomic_file(file) as temporary:
            temporary.write_text(as_json(settings), encoding="utf-8")
    compare(str(file), file.read_bytes(), settings)


def compare(file: str, saved: bytes, settings: Mapping) -> None:
    """settings: by the flag that sets them, with its dashes or as Python names it; what no flag gives is a mapping.

    Raises InputError that names the first in which `saved`, the text of `file`, differs.
    """
    try:
        begun = dict(json.loads(saved))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: broken ({error}); choose another --output") from None
    for name, value in settings.items():
        if begun.get(name) != value:
            typed = name if name.startswith("--") else flag(name)
            what = f"other {name}" if isinstance(value, Mapping) else f"{typed} {begun.get(name)}, not {value}"
            raise InputError(f"{file}: begun with {what}; choose another --output")
