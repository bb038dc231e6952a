"""The run folder: its configuration, its metrics, what it is finished with, and the link to the newest finished run."""

import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from peft import PeftModel
from torch import nn

from lib.checksums import write_sums
from lib.cli import flag
from lib.errors import InputError
from lib.models.curve import plot_run
from lib.paths import INCOMPLETE, atomic_file
from lib.questions.prompt_config import PROMPT_FILE, PromptConfig
from lib.questions.readers import read_rows

RUNS = Path("runs")
RUN_FILE = "run.json"
MODEL_CONFIGS = ("adapter_config.json", "config.json")
METRICS_FILE = "metrics.jsonl"
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")


def library_versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}


def write_run(folder: Path, settings: dict) -> None:
    with atomic_file(folder / RUN_FILE) as temporary:
        temporary.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_run(folder: Path) -> dict:
    path = folder / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read the run's configuration ({error})") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: no run's configuration, but a {type(record).__name__}")
    for name in ("settings", "data_sha256"):
        if not isinstance(record.get(name, {}), dict):
            raise InputError(f"{path}: field '{name}' is no object; copy the run again")
    return record


def trained_on(record: Mapping) -> frozenset[str]:
    """SHA-256 of the training data of a run, {} for none, and of the runs that it started from."""
    own = record.get("data_sha256", {}).get("train")
    return frozenset([*record.get("trained_on", []), *([own] if own else [])])


def open_run(folder: Path, settings: dict, identity: dict, *, resume: bool) -> dict:
    """Begin the run's record in its folder, or check that the run to resume is still the same.

    settings: the flags. identity: what a resumed run must share (hashes of weights and data, prompt, processes).
    Raises InputError where something has changed since.
    """
    if resume:
        record = read_run(folder)
        for name, value in identity.items():
            if record.get(name) != value:
                was = record.get(name, "not recorded")
                raise InputError(f"{folder / RUN_FILE}: {name} was {was} and is now {value}; start a new run")
        return record
    record = {"settings": settings, **identity, "libraries": library_versions(), "finished": False}
    write_run(folder, record)
    return record


def resumed_settings(folder: Path, flags: Mapping, typed: Collection[str]) -> dict:
    """The settings of the run in `folder`, and the `flags` (settings by name) that its version did not have yet.

    Raises InputError where the run has finished, where one of the `typed` flags contradicts it, and where it has a
    setting that is no flag any more.
    """
    record = read_run(folder)
    if record.get("finished"):
        raise InputError(f"{folder}: this run has finished; evaluate it with `python eval_mc.py --model {folder}`")
    saved = record.get("settings", {})
    if unknown := sorted(saved.keys() - flags.keys()):
        raise InputError(f"{folder}: the run was started with {flag(unknown[0])}, unknown here; start a new run")
    for name in saved.keys() & typed:
        if flags[name] != saved[name]:
            raise InputError(
                f"{folder}: the run was started with {flag(name)} {saved[name]}, not {flags[name]}; leave it out"
            )
    if lacking := {name: flags[name] for name in sorted(flags.keys() - saved.keys())}:
        taken = ", ".join(f"{flag(name)} {value}" for name, value in lacking.items())
        print(f"note: {folder} was started by another version, without {taken}")
    return saved | lacking


def finish_run(folder: Path, record: dict, model: nn.Module, tokenizer, prompt: PromptConfig, card: str) -> None:
    """Write adapter (PEFT layout) or trained model, tokenizer, prompt contract, curve and model `card`; then call the
    run finished."""
    plot_run(read_metrics(folder), folder / "curve.png")
    prompt.save(folder)
    with tempfile.TemporaryDirectory(suffix=INCOMPLETE, dir=folder) as temporary:
        is_adapter = isinstance(model, PeftModel)
        model.save_pretrained(temporary, **({"save_embedding_layers": False} if is_adapter else {}))
        tokenizer.save_pretrained(temporary, save_jinja_files=False)  # which several templates put into a folder
        (Path(temporary) / "README.md").write_text(card, encoding="utf-8")
        # The configuration comes last: with it, the folder counts as a model.
        files = sorted(Path(temporary).iterdir(), key=lambda path: path.name in MODEL_CONFIGS)
        for path in files:
            path.replace(folder / path.name)
    write_sums(folder, [PROMPT_FILE, *(path.name for path in files if path.suffix != ".md")])
    write_run(folder, record | {"finished": True})
    if folder.resolve().parent == RUNS.resolve():  # not those of a sweep: the newest of them means nothing
        point_latest(folder)


def point_latest(folder: Path) -> None:
    """Make `runs/latest` name this run of runs/; a reader sees the old link or the new one, never none."""
    temporary = RUNS / f".latest.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.resolve().name, target_is_directory=True)
    temporary.replace(RUNS / "latest")


class MetricsLog:
    """`metrics.jsonl`: one JSON line a step, on disk before the next step begins."""

    def __init__(self, folder: Path, keep_bytes: int = 0):
        """Go on after the first `keep_bytes` bytes: what came after the checkpoint is computed again."""
        self.path = folder / METRICS_FILE
        self.file = self.path.open("ab")
        if self.path.stat().st_size < keep_bytes:
            raise InputError(f"{self.path}: shorter than its checkpoint says; copy the run again, or start a new one")
        self.file.truncate(keep_bytes)

    def write(self, **values) -> None:
        self.file.write((json.dumps(values) + "\n").encode())
        self.file.flush()

    @property
    def size(self) -> int:
        """Bytes written so far, safely on disk: a checkpoint that names this size can count on them."""
        os.fsync(self.file.fileno())
        return self.path.stat().st_size


def read_metrics(folder: Path) -> list[dict]:
    return [line for _, line in read_rows(folder / METRICS_FILE)]
