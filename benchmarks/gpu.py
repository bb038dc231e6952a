"""What a GPU changes, in one command: `make bench-gpu`, at most nine minutes on a card of the H100's class.

    python benchmarks/gpu.py --data ../shared/casehold --tokenizer ../shared/qwen2_tokenizer --output runs/bench-gpu

Right first: the self-check, log-probs in bf16 against fp32, the losses of 64 questions against the CPU's, a run that
was stopped and resumed against one that was not. Then fast: training and scoring beside what others use where it is
installed, memory with and without gradient checkpointing at 0.5B and 7B, a base in 4 bits, and CUDA in the C++ scorer
where it loads. Random weights, made here. A step that --minutes have no room for any more is left out, or ended, by
name. What they measure goes to gpu.md and gpu.json, after each step. Without a GPU it runs on the CPU.
"""

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_float, positive_int
from lib.errors import InputError, run_script
from lib.models.device import default_device
from lib.models.loading import DTYPES, load_model, load_tokenizer
from lib.models.runs import read_metrics
from lib.packed.pack import pack
from lib.packed.precision import cast_parameters
from lib.packed.scoring import PackedScorer
from lib.packed.selfcheck import TOLERANCE, check_packed_pass
from lib.paths import ROOT, atomic_file
from lib.questions.data import load_split
from lib.questions.prompt import encode_questions
from lib.questions.prompt_config import default_contract
from make_random_model import SIZES
from tables import machine

CURVE_TOLERANCE = 0.02  # of a loss, between two devices in fp32, whose products round differently


class Steps:
    """Each a method that returns figures; InputError is what is wrong."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.folder = args, args.output
        self.model = args.output / f"model-{args.size}"
        self.precision = "bf16" if torch.cuda.is_available() else "fp32"
        self.end = time.monotonic() + 60 * args.minutes

    def python(self, script: str, *flags, environment: dict | None = None, stop_after: Path | None = None) -> str:
        """Run one of the project's scripts; what it printed. stop_after: a file of metrics; once half of the run's
        steps stand there, the script is interrupted."""
        command = [sys.executable, str(ROOT / script), *map(str, flags)]
        child = subprocess.Popen(
            command, env=os.environ | (environment or {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        half = self.args.limit / self.args.batch_size / 2
        while stop_after and child.poll() is None and time.monotonic() < self.end:
            if stop_after.exists() and stop_after.read_text().count('"loss"') >= half:
                child.send_signal(signal.SIGINT)
                break
            time.sleep(0.02)
        try:
            printed, _ = child.communicate(timeout=max(1, self.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise InputError(f"{script} was ended with --minutes") from None
        if child.returncode not in (0, 128 + signal.SIGINT if stop_after else 0):
            last = (printed.strip().splitlines() or ["silently"])[-1]
            raise InputError(f"{script} ended with {child.returncode}: {last}")
        return printed

    def make_model(self) -> dict:
        if not self.model.exists():
            flags = ["--size", self.args.size, "--tokenizer", self.args.tokenizer, "--output", self.model]
            self.python("benchmarks/make_random_model.py", *flags)
        return {"size": self.args.size}

    def log_probs(self) -> dict:
        """Packed against unpacked in fp32, and bf16 against fp32."""
        device = default_device()
        data, tokenizer = load_split(self.args.data, "test", limit=16), load_tokenizer(str(self.model))
        encoded = encode_questions(data.questions, tokenizer, default_contract(data.default_template, tokenizer))
        scorer = PackedScorer(load_model(str(self.model), torch.float32).model.to(device)).eval()
        self_check, _ = check_packed_pass(scorer, encoded, device)
        found = {}
        for name, dtype in DTYPES.items():
            cast_parameters(scorer, dtype)
            with torch.inference_mode():
                found[name] = [scorer(pack([item]).to(device))[0].tolist() for item in encoded]
        exact, rounded = (torch.tensor([value for row in found[name] for value in row]) for name in ("fp32", "bf16"))
        relative, absolute = TOLERANCE["bf16"]
        difference = (rounded - exact).abs()
        if not (difference <= relative * exact.abs() + absolute).all():
            raise InputError(f"log-probs in bf16 differ from those in fp32 by {difference.max():.3g}")
        return {"self_check": self_check, "bf16_largest": difference.max().item(), "questions": len(encoded)}

    def train(self, name: str, *flags, **how) -> Path:
        """A run, gone on with where it was begun, without dropout, whose random numbers differ between devices."""
        run = self.folder / name
        given = ["--model", self.model, "--data", self.args.data, "--limit", self.args.limit, "--epochs", 1]
        given += ["--batch-size", self.args.batch_size, "--lora-dropout", 0, "--save-every", 2, "--output", run, *flags]
        given += ["--resume"] if run.exists() else []
        if not (run / "adapter_model.safetensors").exists():
            self.python("train_sdpo.py", *given, **how)
        return run

    def loss_curve(self) -> dict:
        runs = {
            "device fp32": self.train("device-fp32", "--precision", "fp32"),
            "device bf16": self.train("device-bf16", "--precision", "bf16"),
            "cpu fp32": self.train("cpu-fp32", "--precision", "fp32", environment={"CUDA_VISIBLE_DEVICES": ""}),
        }
        curves = {name: [line["loss"] for line in read_metrics(run) if "loss" in line] for name, run in runs.items()}
        pairs = zip(curves["device fp32"], curves["cpu fp32"], strict=True)
        largest = max(abs(one - other) for one, other in pairs)
        if not largest <= CURVE_TOLERANCE:
            raise InputError(f"a loss differs from the CPU's by {largest:.3g}, more than {CURVE_TOLERANCE:g}")
        return {"largest_difference": largest, "losses": curves}

    def resume(self) -> dict:
        stopped = self.folder / "stopped"
        whole = self.train("device-fp32", "--precision", "fp32")
        self.train("stopped", "--precision", "fp32", stop_after=stopped / "metrics.jsonl")
        self.train("stopped", "--precision", "fp32")
        one, other = ((run / "adapter_model.safetensors").read_bytes() for run in (whole, stopped))
        if one != other:
            raise InputError(f"the adapter of {stopped} is not that of {whole}, which was never stopped")
        return {"equal": "to the last bit"}

    def training_speed(self) -> dict:
        return self.benchmark("training_speed", "--model", self.model, "--precision", self.precision, "--rounds", 1)

    def scoring_speed(self) -> dict:
        flags = ["--model", self.model, "--precision", self.precision, "--rounds", 2, "--questions", 2]
        return self.benchmark("scoring_speed", *flags)

    def four_bit(self) -> dict:
        if not importlib.util.find_spec("bitsandbytes"):
            return {"bitsandbytes": "is not installed"}
        figures = {}
        for name, flags in (("whole", []), ("4 bits", ["--load-in-4bit"])):
            run = self.train(f"memory-{name.replace(' ', '-')}", "--precision", "bf16", *flags)
            lines = [line for line in read_metrics(run) if "loss" in line]
            figures[name] = {
                "questions_per_second": statistics.median(line["questions_per_second"] for line in lines),
                "peak_memory_gb": lines[-1]["peak_memory_gb"],
            }
        return figures

    def memory(self, size: str, *flags) -> dict:
        given = ["--size", size, "--cap-gb", 80, "--tokenizer", self.args.tokenizer, "--precision", self.precision]
        return self.benchmark("training_memory", *given, *flags)

    def cpp_cuda(self) -> dict:
        graph, questions = self.folder / "model.onnx", self.folder / "questions.jsonl"
        if not graph.exists():
            flags = ["--model", self.model, "--data", self.args.data, "--limit", 4, "--output", graph]
            self.python("export.py", *flags)
        rows = load_split(self.args.data, "test", limit=64).questions
        lines = [json.dumps({"context": row.fields["context"], "endings": row.endings}) for row in rows]
        questions.write_text("\n".join(lines) + "\n", encoding="utf-8")
        figures = {}
        for device in ("cpu", "cuda"):
            command = [ROOT / "cpp_scorer" / "score", "--model", graph, "--input", questions, "--device", device]
            began = time.monotonic()
            try:
                left = max(1, self.end - began)
                ended = subprocess.run(command, capture_output=True, text=True, timeout=left)
            except subprocess.TimeoutExpired:
                raise InputError(f"cpp_scorer/score --device {device} was ended with --minutes") from None
            seconds = time.monotonic() - began
            last = (ended.stderr.strip().splitlines() or [""])[-1]
            figures[device] = last if ended.returncode else {"seconds": seconds, "questions": len(rows)}
        return figures

    def benchmark(self, name: str, *flags) -> dict:
        figures = self.folder / f"{name}.json"
        printed = self.python(f"benchmarks/{name}.py", *flags, "--data", self.args.data, "--json", figures)
        return json.loads(figures.read_text()) | {"printed": printed[printed.find("\n|") :].strip()}

    def by_name(self) -> dict[str, Callable[[], dict]]:
        small, large, less = self.args.size, self.args.large, "--grad-checkpointing"
        return {
            "model": self.make_model,
            "log-probs": self.log_probs,
            "losses against the CPU's": self.loss_curve,
            "stopped and resumed": self.resume,
            "training speed": self.training_speed,
            "scoring speed": self.scoring_speed,
            "4 bits": self.four_bit,
            f"memory, {small}": lambda: self.memory(small),
            f"memory, {small}, checkpointing": lambda: self.memory(small, less),
            f"memory, {large}, checkpointing": lambda: self.memory(large, less),
            f"memory, {large}": lambda: self.memory(large),
            "C++ on CUDA": self.cpp_cuda,
        }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("--data", default="../shared/casehold", help="folder with questions, all splits")
    parser.add_argument("--tokenizer", default="../shared/qwen2_tokenizer", help="folder with tokenizer.json")
    parser.add_argument("--size", choices=SIZES, default="0.5b", help="of most steps, in billions of weights")
    parser.add_argument("--large", choices=SIZES, default="7b", help="of the last steps of memory")
    parser.add_argument("--limit", type=positive_int, default=64, help="questions to train on")
    parser.add_argument("--batch-size", type=positive_int, default=4, help="questions a step")
    parser.add_argument("--minutes", type=positive_float, default=9.0, help="for all steps")
    parser.add_argument("--output", type=Path, default=Path("runs/bench-gpu"), help="folder for what is measured")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    steps, done = Steps(args), {}
    for name, step in steps.by_name().items():
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        try:
            if began > steps.end:
                raise InputError("left out: --minutes were over")
            done[name] = {"outcome": "done", "figures": step()}
        except InputError as error:
            done[name] = {"outcome": str(error), "figures": {}}
        done[name]["seconds"] = time.monotonic() - began
        write(args.output, done)
    if failed := [f"{name} ({one['outcome']})" for name, one in done.items() if one["outcome"] != "done"]:
        raise InputError(f"not done: {'; '.join(failed)}; the others are in {args.output / 'gpu.md'}")
    print(f"all steps: {args.output / 'gpu.md'}")
    return 0


def write(folder: Path, done: dict[str, dict]) -> None:
    """gpu.json, and the same as a table with the tables that the benchmarks print below it."""
    with atomic_file(folder / "gpu.json") as temporary:
        temporary.write_text(json.dumps({"machine": machine()} | done, indent=1) + "\n", encoding="utf-8")
    lines = [machine(), "", "| step | seconds | outcome | |", "|---|---|---|---|"]
    tables = []
    for name, one in done.items():
        figures = {key: value for key, value in one["figures"].items() if key not in ("printed", "losses", "seconds")}
        lines.append(f"| {name} | {one['seconds']:.0f} | {one['outcome']} | {short(figures)} |")
        if printed := one["figures"].get("printed"):
            tables += ["", f"## {name}", "", printed]
    with atomic_file(folder / "gpu.md") as temporary:
        temporary.write_text("\n".join([*lines, *tables]) + "\n", encoding="utf-8")


def short(figures: dict) -> str:
    texts = [f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()]
    return "; ".join(texts) if len(figures) < 5 else ""


if __name__ == "__main__":
    run_script(main)
