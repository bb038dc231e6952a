"""The prompt contract that something carries, to score another model under it."""

from pathlib import Path

from lib.errors import InputError
from lib.questions.prompt_config import PROMPT_FILE, PromptConfig


def read_contract(source: str) -> PromptConfig:
    """The prompt contract of a run or model folder, an export, or a prompt.json; raises InputError where `source` is
    none of them."""
    path = Path(source)
    if not path.exists():
        raise InputError(f"--contract {source}: no such run, export or {PROMPT_FILE}")
    if path.suffix == ".onnx":
        # Imported only here: training machines may lack onnx.
        from lib.export.files import contract_in, read_export

        return contract_in(read_export(path))
    if path.is_dir() and not (path / PROMPT_FILE).exists():
        raise InputError(f"--contract {source}: there is no {PROMPT_FILE} in it; name a run or an export")
    return PromptConfig.load(path)
