"""Where a model comes from: a run or model folder, a GGUF file, an installed package, the demo, or the hub."""

from pathlib import Path

from lib.errors import InputError
from lib.hub import fetch_run, require_hub
from lib.models.packages import PACKAGES, packaged_file
from lib.models.runs import RUN_FILE
from lib.questions.prompt_config import PROMPT_FILE

ADAPTER_CONFIG = "adapter_config.json"
NAMES = ("demo", *PACKAGES)


def resolve(source: str) -> str:
    """A folder for `source` (the demo's and a GGUF file's are made on first use, a run on the hub is fetched), or the
    hub name it is.

    Raises InputError for what cannot be found, and says what to type instead.
    """
    if source == "demo":
        from lib.demo.model import ensure_base_model

        return str(ensure_base_model())
    if source in PACKAGES:
        return _gguf(packaged_file(source))
    path = Path(source)
    if path.is_dir():
        if (path / ADAPTER_CONFIG).exists() or (path / "config.json").exists():
            return str(path)
        if (path / RUN_FILE).exists():
            raise InputError(f"{source}: this run has not finished; go on with `--resume --output {source}`")
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return _gguf(files[0])
        if files:
            raise InputError(f"{source}: {files[0].name} and {files[1].name} could both be the model; name the file")
        raise InputError(f"{source}: holds no model (neither {ADAPTER_CONFIG} nor config.json nor a .gguf file)")
    if path.suffix == ".gguf" and path.is_file():
        return _gguf(path)
    if source == "runs/latest":
        raise InputError("runs/latest: no trained run yet; type `python train_sdpo.py --num-neg 4`, or name a --model")
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1 or source.startswith("runs/"):
        raise InputError(
            f"{source}: no such model folder; give a run, a model folder, a .gguf file, {', '.join(PACKAGES)}, or a "
            "hub name such as Qwen/Qwen2.5-0.5B"
        )
    require_hub(
        f"model {source}", source, "model", "give a model folder with --model, or try `--model demo --data demo`"
    )
    # transformers would put the adapter on its base by itself, and leave out the contract and the record.
    return fetch_run(source, (ADAPTER_CONFIG, PROMPT_FILE)) or source


def is_hub_name(source: str) -> bool:
    """Whether a `source` that was loaded is the hub's, not what lies or is made here."""
    return source not in NAMES and not Path(source).exists()


def recorded_name(source: str) -> str:
    """The name under which a run records its base: as typed, but a folder's or a file's in full, wherever it is loaded
    from."""
    path = Path(source)
    return str(path.resolve()) if source not in NAMES and path.exists() else source


def _gguf(file: Path) -> str:
    # Imported only here: other models do not need it.
    from lib.models.gguf import gguf_folder

    return str(gguf_folder(file))
