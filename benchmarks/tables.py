"""What every benchmark prints: the machine, a markdown table, and the same figures as JSON."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from lib.paths import atomic_file

LIBRARIES = ("torch", "transformers", "peft", "onnxruntime", "onnxruntime-gpu", "lm_eval", "trl")


def machine() -> str:
    """Device, threads and the versions of what is installed, in one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{device}, {torch.get_num_threads()} threads; {', '.join(found)}"


def processor() -> str:
    """The processor's name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def write_json(path: Path | None, figures: dict) -> None:
    """Write `figures` with the machine's line to `path`, where there is one."""
    if path is not None:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps({"machine": machine()} | figures, indent=1) + "\n")
