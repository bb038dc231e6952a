"""Run the benchmarks of this folder on what is installed, and say what is missing: `make bench`.

Those of mining, of the service and of a GPU (mining.py, service_load.py, service_rivals.py, gpu.py) are commands of
their own.

    python benchmarks/bench.py --data ../shared/casehold --tokenizer ../shared/qwen2_tokenizer --output runs/bench

Makes what they need first: the 0.5B architecture with random weights, a run of 16 questions, its exports. Each
benchmark's tables go to NAME.md and its figures to NAME.json in --output; one whose NAME.md is there is not repeated.
Takes some two hours on 2 cores. Nothing else should run meanwhile.
"""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter
from lib.errors import InputError, run_script
from lib.paths import CACHE_DIR, ROOT, atomic_file
from make_random_model import SIZES

HERE = Path(__file__).resolve().parent
SCORER = ROOT / "cpp_scorer" / "score"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--data", default="../shared/casehold", help="folder with questions, all splits")
    parser.add_argument("--tokenizer", default="../shared/qwen2_tokenizer", help="folder with tokenizer.json")
    parser.add_argument("--size", choices=SIZES, default="0.5b", help="architecture, in billions of weights")
    parser.add_argument("--llama-perplexity", type=Path, metavar="PROGRAM", help="llama.cpp's program of that name")
    parser.add_argument("--gguf", nargs="*", default=[], metavar="FILE", help="a model of that size for llama.cpp")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder for tables and figures")
    args = parser.parse_args(argv)

    for line in missing(args):
        print(f"missing: {line}")
    model, run, onnx = prepare(args)
    failed = [
        name for name, flags in benchmarks(args, model, run, onnx).items() if not perform(name, flags, args.output)
    ]
    if failed:
        raise InputError(f"failed, with the reason above: {', '.join(failed)}; the others are in {args.output}")
    print(f"all benchmarks: {args.output}")
    return 0


def missing(args: argparse.Namespace) -> list[str]:
    lines = [
        f"{title}; pip install -r benchmarks/requirements.txt"
        for package, title in (("lm_eval", "lm-evaluation-harness"), ("trl", "TRL"), ("ray", "Ray"))
        if not installed(package)
    ]
    if not args.llama_perplexity or not args.gguf:
        lines.append("llama.cpp; build its llama-perplexity, convert the model, name both (--llama-perplexity, --gguf)")
    if not torch.cuda.is_available():
        lines.append("a GPU; its tables are left out")
    return lines


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def prepare(args: argparse.Namespace) -> tuple[Path, Path, list[Path]]:
    """The model, a run on it, and its exports in fp32 and int8, kept in .cache/. Raises InputError where a given folder
    is not there: the model alone takes minutes."""
    for path in (args.data, args.tokenizer):
        if not Path(path).is_dir():
            raise InputError(f"{path}: no such folder; name the questions with --data, Qwen2's files with --tokenizer")
    model = CACHE_DIR / f"random-{args.size}"
    run, graphs = CACHE_DIR / "bench" / f"run-{args.size}", CACHE_DIR / "bench" / f"onnx-{args.size}"
    if not model.exists():
        script("benchmarks/make_random_model.py", "--size", args.size, "--output", model, "--tokenizer", args.tokenizer)
    if not (run / "adapter_model.safetensors").exists():
        flags = ["--num-neg", 4, "--limit", 16, "--epochs", 1, "--output", run]
        flags += ["--resume"] if run.exists() else []
        script("train_sdpo.py", "--model", model, "--data", args.data, *flags)
    onnx = [graphs / "model.onnx", graphs / "model.int8.onnx"]
    for path, quantize in zip(onnx, ("none", "int8"), strict=True):
        if not path.exists():
            flags = ["--data", args.data, "--limit", 4, "--quantize", quantize, "--max-flips", 1, "--output", path]
            script("export.py", "--model", run, *flags)
    if not SCORER.exists():
        subprocess.run([ROOT / "tools" / "build_scorer.sh"], check=True)
    return model, run, onnx


def benchmarks(args: argparse.Namespace, model: Path, run: Path, onnx: list[Path]) -> dict[str, list]:
    """The flags of every benchmark that can be run here."""
    llama = ["--llama-perplexity", args.llama_perplexity, "--gguf", *args.gguf] if args.llama_perplexity else []
    scored = ["--model", run, "--onnx", *onnx]
    exact = ["--model", run, "--onnx", onnx[0]]
    flags = {
        "scoring_speed": [*scored, *llama],
        "limit": [*scored],
        "graph_profile": [*scored],
        "training_speed": ["--model", model],
        "growth": [*scored, "--figure", args.output / "growth.png"],
        "fidelity": [*exact],
        "score_costs": ["--model", run],
        "candidate_costs": [*scored],
        "scorer_parity": [*exact, "--limit", 40],
        "lm_eval_parity": ["--model", model],
        "scale": ["--onnx", *onnx],
        "full_size": ["--tokenizer", args.tokenizer],
    }
    for name, given in flags.items():
        given += ["--data", args.data]
        if not name.endswith("_parity"):
            given += ["--json", args.output / f"{name}.json"]
    for name, needed in (("lm_eval_parity", "lm_eval"), ("scale", "ray")):
        if not installed(needed):
            del flags[name]
    if torch.cuda.is_available():
        for name in ("scoring_speed", "training_speed", "growth"):
            flags[name] += ["--precision", "bf16"]
        memory = ["--data", args.data, "--tokenizer", args.tokenizer]
        flags["training_memory"] = [*memory, "--size", args.size, "--cap-gb", 4]
        flags["training_memory_7b"] = [*memory, "--size", "7b", "--cap-gb", 24, "--grad-checkpointing"]
        for name in ("training_memory", "training_memory_7b"):
            flags[name] += ["--json", args.output / f"{name}.json"]
    return flags


def perform(name: str, flags: list, output: Path) -> bool:
    """Run one benchmark into `output`; its progress is shown. Whether it went well."""
    table = output / f"{name}.md"
    if table.exists():
        print(f"{name}: done before, {table}")
        return True
    print(f"{name} ...", flush=True)
    script_file = HERE / f"{name.removesuffix('_7b')}.py"
    ended = subprocess.run([sys.executable, script_file, *map(str, flags)], stdout=subprocess.PIPE, text=True)
    print(ended.stdout)
    if ended.returncode == 0:
        with atomic_file(table) as temporary:
            command = f"python benchmarks/{script_file.name} {' '.join(map(str, flags))}"
            temporary.write_text(f"`{command}`\n{ended.stdout}", encoding="utf-8")
    return ended.returncode == 0


def script(name: str, *flags) -> None:
    """Run one of the project's scripts; raises InputError where it fails."""
    if subprocess.run([sys.executable, str(ROOT / name), *map(str, flags)]).returncode:
        raise InputError(f"{name}: ended with an error, see above")


if __name__ == "__main__":
    run_script(main)
