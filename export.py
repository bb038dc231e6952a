"""Export a model to ONNX: the packed scoring graph that ./cpp_scorer/score runs, or the standard decoder.

python export.py                                                 the newest run, to model.onnx
python export.py --model Qwen/Qwen2.5-0.5B --contract runs/mine --output base.onnx    a --reference for the scorer
python export.py --quantize int8 --output model.int8.onnx        a third of the size, faster, nearly the same
python export.py --format causal-lm --output decoder             a folder that ORTModelForCausalLM loads
"""

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel

from lib.checksums import sha256_of_file, write_sums
from lib.cli import HelpFormatter, positive_int, zero_to_one
from lib.errors import InputError, run_script
from lib.export.card import write_card
from lib.export.causal_lm import export_causal_lm, load_causal_lm, require_optimum
from lib.export.check import GOLDEN_QUESTIONS, compute_logprobs, cut_question, largest_difference, write_golden
from lib.export.contract import read_contract
from lib.export.files import (
    FORMAT_VERSION,
    NONE,
    TOKENIZER_FILE,
    add_metadata,
    check_neighbours,
    publish,
    staging,
    write_model,
)
from lib.export.graph import export_graph
from lib.export.int8 import FORMS, quantize
from lib.export.quantization import check_flips, compare_quantized, quantization_report, relative_to
from lib.export.session import onnx_scorer
from lib.models.device import describe_device
from lib.models.loading import LoadedModel, load_model
from lib.models.runs import write_run
from lib.packed.inference import Logprobs
from lib.packed.neutral import neutral_logprobs
from lib.packed.precision import is_four_bit
from lib.packed.scoring import PackedScorer
from lib.packed.selfcheck import check_family, check_packed_pass, max_positions, unpacked_logprobs
from lib.paths import ROOT, atomic_dir
from lib.questions.data import has_validation, load_split
from lib.questions.prompt import EncodedQuestion, encode_questions, report_encoding
from lib.questions.prompt_config import PromptConfig, default_contract

SCORER = ROOT / "cpp_scorer" / "score"
SLOW_CHECK_QUESTIONS = 4  # for the checks that run the model once more: the adapter unmerged, candidates unpacked


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    model = parser.add_argument_group("model", "e.g. --model runs/mine, or --model smollm2 --contract runs/mine")
    named = "run, model folder, .gguf, hub name, smollm2 or demo"
    model.add_argument("--model", default="runs/latest", help=named)
    base = "model that the run was trained on, where it has moved; checked by its hash"
    model.add_argument("--base", metavar="MODEL", help=base)
    contract = "run, model.onnx or prompt.json whose prompt contract to export with (default: the model's own)"
    model.add_argument("--contract", metavar="RUN", help=contract)

    output = parser.add_argument_group("output", "e.g. --quantize int8 --output model.int8.onnx")
    output.add_argument("--output", type=Path, help="NAME.onnx, or the folder of a causal-lm (default: model.onnx)")
    graphs = "the graph that ./cpp_scorer/score runs, or the decoder that ORTModelForCausalLM loads"
    output.add_argument("--format", choices=("scorer", "causal-lm"), default="scorer", help=graphs)
    forms = "8-bit weights and products; int8x2: both finer, for answers nearer to fp32's in half its size"
    output.add_argument("--quantize", choices=("none", *FORMS), default="none", help=forms)
    flips = "refuse a quantised form that changes more than this share of the choices, by log-prob or by pmi"
    output.add_argument("--max-flips", type=zero_to_one, default=0.1, metavar="SHARE", help=flips)
    output.add_argument("--merged-dir", type=Path, help="also keep the merged Hugging Face model, in this new folder")

    check = parser.add_argument_group("questions to check with", "e.g. --data questions/ --limit 100")
    checked = "as of eval_mc.py; validation split, else train (default: the run's, else casehold)"
    check.add_argument("--data", help=checked)
    check.add_argument("--candidates", metavar="FILE", help="class names of that --data (default: the run's)")
    check.add_argument("--limit", type=positive_int, default=32, help="only the first N questions")
    args = parser.parse_args(argv)
    if args.format == "causal-lm":
        if args.quantize != "none":
            parser.error("--quantize goes with --format scorer; a causal-lm is exported in fp32")
        if args.output is None or args.output.suffix == ".onnx":
            parser.error("--format causal-lm needs --output FOLDER: it writes several files of fixed names")
    args.output = args.output or Path("model.onnx")
    if args.format == "scorer" and args.output.suffix != ".onnx":
        parser.error(f"--output {args.output}: the name of a scoring graph ends in .onnx")
    if args.merged_dir:
        merged, output = args.merged_dir.resolve(), args.output.resolve()
        if merged == output or merged in output.parents or output in merged.parents:
            parser.error(f"--merged-dir {args.merged_dir} and --output {args.output} are within each other")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.format == "causal-lm":
        require_optimum()
    new_folders = [args.merged_dir, args.output if args.format == "causal-lm" else None]
    for folder in filter(None, new_folders):
        if folder.exists():
            raise InputError(f"{folder}: exists already; name a new folder")
    if args.format == "scorer" and args.output.is_dir():
        raise InputError(f"{args.output}: a folder; name a file with --output")

    contract = read_contract(args.contract) if args.contract else None
    loaded = load_model(args.model, torch.float32, base=args.base)
    if args.base and not isinstance(loaded.model, PeftModel):
        raise InputError(f"--base {args.base}: {args.model} has no adapter, so it needs no base; leave the flag out")
    newest = f" ({Path(args.model).resolve().name})" if args.model == "runs/latest" else ""
    print(f"model: {args.model}{newest}")
    print(describe_device(loaded.model.device, "fp32"))
    prompt, encoded = load_questions(args, loaded, contract)
    check_family(loaded.model, prompt.max_length)
    with torch.no_grad():
        if is_four_bit(loaded.model):
            merge_into_whole(loaded, encoded, args.base)
        else:
            merge_adapter(loaded, encoded[:SLOW_CHECK_QUESTIONS])
        check_packed_pass(PackedScorer(loaded.model), encoded, "cpu")
        export = export_decoder if args.format == "causal-lm" else export_scorer
        export(args, loaded, prompt, encoded)
        if args.merged_dir:
            with atomic_dir(args.merged_dir) as folder:
                save_merged(folder, loaded, prompt)
            print(f"merged model: {args.merged_dir}")
    return 0


def load_questions(
    args, loaded: LoadedModel, contract: PromptConfig | None
) -> tuple[PromptConfig, list[EncodedQuestion]]:
    """The prompt contract (`contract`, else of training, else the default) and the questions to check with. Without
    --data they are those of the run."""
    trained = loaded.training.get("settings", {})
    source = args.data or trained.get("data") or ("demo" if args.model == "demo" else "casehold")
    candidates = args.candidates or (None if args.data else trained.get("candidates"))
    split = "validation" if has_validation(source) else "train"
    data = load_split(source, split, limit=args.limit, candidates_file=candidates)
    prompt = contract or loaded.prompt or default_contract(data.default_template, loaded.tokenizer)
    if loaded.prompt not in (None, prompt):
        print(f"note: it was trained with {loaded.prompt}; here it is {prompt}")
    encoded = encode_questions(data.questions, loaded.tokenizer, prompt)
    print("\n".join(report_encoding(data, encoded)))
    return prompt, encoded


def merge_adapter(loaded: LoadedModel, encoded: list[EncodedQuestion]) -> None:
    """Merge the adapter into the base weights, in fp32; raises InputError where that moves a log-prob."""
    if not isinstance(loaded.model, PeftModel):
        return
    apart = torch_logprobs(loaded.model, encoded, "adapter")
    loaded.model = loaded.model.merge_and_unload()
    merged = torch_logprobs(loaded.model, encoded, "merged")
    difference = largest_difference("merged model and adapter", merged, apart)
    print(f"merged: equal to the adapter to {difference:.1e} on {len(encoded)} questions")


def merge_into_whole(loaded: LoadedModel, encoded: list[EncodedQuestion], base: str | None) -> None:
    """Merge an adapter that was trained on a base in 4 bits into the whole one, and say how far that moves answers."""
    values = [{"sum": torch_logprobs(loaded.model, encoded, "in 4 bits")}]
    loaded.model = load_model(loaded.source, torch.float32, merge=True, base=base).model
    values.insert(0, {"sum": torch_logprobs(loaded.model, encoded, "merged")})
    lines = quantization_report(compare_quantized(*values, encoded))
    print("\n  ".join(["merged into the whole base; against that, in 4 bits, as it was trained:", *lines]))


def torch_logprobs(model: torch.nn.Module, encoded: list[EncodedQuestion], description: str):
    scorer = PackedScorer(model)
    return compute_logprobs(lambda batch: scorer(batch).numpy(), encoded, description)


def export_scorer(args, loaded: LoadedModel, prompt: PromptConfig, encoded: list[EncodedQuestion]) -> None:
    """Write the packed scoring graph with everything the scorer needs, once it has been checked against PyTorch."""
    with staging(args.output) as folder:
        tokenizer_file = folder / TOKENIZER_FILE
        loaded.tokenizer.backend_tokenizer.save(str(tokenizer_file))
        check_neighbours(args.output, tokenizer_file)
        print(ask_scorer(tokenizer_file))
        checked = encoded[:GOLDEN_QUESTIONS]  # what quantising changes takes all of them
        expected = torch_logprobs(loaded.model, checked, "PyTorch")
        print("graph: exporting ...", flush=True)
        graph = export_graph(loaded.model)
        described = metadata(loaded, prompt, tokenizer_file) | {"quantization": args.quantize}
        path = write_model(graph, folder, args.output.stem, described)
        score = onnx_scorer(path)
        logprobs = compute_logprobs(score, checked, "onnxruntime")
        difference = largest_difference("onnxruntime and PyTorch", logprobs, expected)
        checks = [f"equal to PyTorch to {difference:.1e} on {len(checked)} questions"]
        print(f"graph: {checks[0]}, {size(path)}")
        if args.quantize in FORMS:
            exact = by_score(score, compute_logprobs(score, encoded, "fp32"), encoded, loaded, prompt)
            exact_size, graph = size(path), quantize(path, args.quantize, encoded)
            (folder / args.quantize).mkdir()
            path = write_model(graph, folder / args.quantize, args.output.stem, described)
            score = onnx_scorer(path)
            logprobs = compute_logprobs(score, encoded, args.quantize)
            price = compare_quantized(exact, by_score(score, logprobs, encoded, loaded, prompt), encoded)
            check_flips(price, args.max_flips)
            checks = [f"in fp32: {checks[0]}", *quantization_report(price)]
            print("\n  ".join([f"{args.quantize}: {size(path)} instead of {exact_size}", *checks[1:]]))
            add_metadata(path, {"quantization_check": json.dumps(price.as_dict() | {"questions": len(encoded)})})
        golden = folder / f"{args.output.stem}.golden.jsonl"
        cut = cut_question(encoded[0], loaded.tokenizer, prompt)
        kept = [*encoded[:GOLDEN_QUESTIONS], *cut]
        known = [*logprobs[:GOLDEN_QUESTIONS], *compute_logprobs(score, cut, "golden question")]
        write_golden(golden, kept, known, sha256_of_file(path))
        card = folder / f"{args.output.stem}.md"
        write_card(card, described, size(path), checks)
        publish(path, golden, tokenizer_file, card, args.output)
    print(f"written: {args.output}; score with ./cpp_scorer/score --model {args.output} --input questions.jsonl")


def ask_scorer(tokenizer_file: Path) -> str:
    """Whether the C++ scorer takes the tokenizer, by its own rules, in words: the graph runs in Python either way."""
    command = [SCORER, "--tokenize", "--tokenizer", tokenizer_file]
    try:
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError:
        answer = None
    if answer is None or answer.returncode not in (0, 1):
        return "note: ./cpp_scorer/score does not run (`make scorer`), whether it takes the tokenizer is not known"
    if answer.returncode == 0:
        return "tokenizer: of a form that ./cpp_scorer/score takes"
    reason = answer.stderr.strip().removeprefix("error: ").replace(f"{tokenizer_file}", TOKENIZER_FILE)
    return f"note: ./cpp_scorer/score will not take this model ({reason}); score it with eval_mc.py"


def by_score(
    score: Callable, logprobs: Logprobs, encoded: list[EncodedQuestion], loaded: LoadedModel, prompt: PromptConfig
) -> dict[str, Logprobs]:
    """What an exported graph, run by `score`, chooses by: its log-probs, and the pmi."""
    neutral = neutral_logprobs(
        encoded, loaded.tokenizer, prompt, lambda rows: compute_logprobs(score, rows, "neutral prompt")
    )
    return {"sum": logprobs, "pmi": relative_to(logprobs, neutral)}


def metadata(loaded: LoadedModel, prompt: PromptConfig, tokenizer_file: Path) -> dict[str, str]:
    """What the scorer reads from the file, and where the weights come from. All values are strings."""
    training = loaded.training
    return {
        "format_version": FORMAT_VERSION,
        "template": prompt.template,
        "max_length": str(prompt.max_length),
        "max_positions": str(max_positions(loaded.model) or NONE),
        "max_ending": NONE if prompt.max_ending is None else str(prompt.max_ending),
        "start_token": loaded.tokenizer.bos_token if prompt.start_token else "",
        "start_token_id": str(loaded.tokenizer.bos_token_id) if prompt.start_token else NONE,
        "end_token": loaded.tokenizer.eos_token if prompt.end_token else "",
        "contract": prompt.digest,
        "end_token_id": str(loaded.tokenizer.eos_token_id) if prompt.end_token else NONE,
        "base_model": training["settings"]["model"] if training else loaded.source,
        "training": json.dumps(training, ensure_ascii=False),
        "data_sha256": training["data_sha256"]["train"] if training else "",
        "tokenizer_file": tokenizer_file.name,
        "tokenizer_sha256": sha256_of_file(tokenizer_file),
    }


def size(path: Path) -> str:
    """Megabytes of an .onnx file and its weights."""
    total = path.stat().st_size + sum(data.stat().st_size for data in path.parent.glob(f"{path.stem}.*.data"))
    return f"{total / 1e6:,.1f} MB"


def export_decoder(args, loaded: LoadedModel, prompt: PromptConfig, encoded: list[EncodedQuestion]) -> None:
    """Write the standard decoder into a folder, once its candidates' log-probs equal PyTorch's."""
    with atomic_dir(args.output) as folder:
        merged = folder / "merged"
        merged.mkdir()
        save_merged(merged, loaded, prompt)
        print("decoder: exporting ...", flush=True)
        export_causal_lm(merged, folder)
        shutil.rmtree(merged)
        prompt.save(folder)
        decoder, checked = load_causal_lm(folder), encoded[:SLOW_CHECK_QUESTIONS]
        values = [
            [unpacked_logprobs(model, item, "cpu").tolist() for item in checked] for model in (decoder, loaded.model)
        ]
        difference = largest_difference("onnxruntime and PyTorch", *values)
    print(f"decoder: equal to PyTorch to {difference:.1e} on {len(checked)} questions")
    print(f"written: {args.output}; load with ORTModelForCausalLM.from_pretrained")


def save_merged(folder: Path, loaded: LoadedModel, prompt: PromptConfig) -> None:
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder, save_jinja_files=False)
    prompt.save(folder)
    if loaded.training:
        write_run(folder, loaded.training)
    write_sums(folder)


if __name__ == "__main__":
    run_script(main)
