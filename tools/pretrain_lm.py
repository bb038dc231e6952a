#!/usr/bin/env python
"""Pretrain a small language model and its tokenizer on your own text, or go on with one: a folder for --model.

python tools/pretrain_lm.py --text opinions/ --params 15m --minutes 30 --output models/law
python tools/pretrain_lm.py --text opinions/ --questions DIR --exclude DIR --params 5m --epochs 1 --output models/law
python tools/pretrain_lm.py --text opinions/ --model smollm2 --batch-size 4 --minutes 30 --output models/law
python tools/pretrain_lm.py --resume --output models/law
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from functools import lru_cache, partial
from pathlib import Path
from shlex import quote

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.checksums import SUMS_FILE, check_sums, write_sums
from lib.cli import HelpFormatter, parse_typed, positive_float, positive_int, seed
from lib.errors import InputError, StopRequest, run_script
from lib.mining.corpus import load_corpus
from lib.mining.holdings import filled_passages
from lib.mining.opinions import PAGE_BREAK
from lib.mining.overlap import held_out_ngrams, shares_ngram
from lib.models.claim import claimed
from lib.models.curve import plot_pretraining
from lib.models.device import default_device, describe_device, peak_memory_gb
from lib.models.loading import LoadedModel, load_model, load_tokenizer, pick_precision
from lib.models.runs import MetricsLog, library_versions, read_metrics, read_run, write_run
from lib.packed.positions import made_for
from lib.packed.selfcheck import check_family
from lib.paths import INCOMPLETE, atomic_dir
from lib.pretraining.data import Rows, prepare
from lib.pretraining.language_model import (
    CONTINUED_LEARNING_RATE,
    LEARNING_RATES,
    MAX_POSITIONS,
    ROWS_AT_ONCE,
    SIZES,
    Pretraining,
    new_model,
    say,
)
from lib.pretraining.throughput import flops_per_token, peak_flops, plan
from lib.progress import progress
from lib.training.negatives import epoch_order

WORK_FOLDER = "pretraining"  # below the model's: what a run resumes from, and its record
CHECKPOINT = "checkpoint.safetensors"
WEIGHT_DECAY = 0.1
NUM_EVALUATIONS = 10
MIN_VOCAB = 300


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    text = parser.add_argument_group("text", "e.g. --text opinions/ --questions mined/ --exclude test.jsonl")
    read = "files (.jsonl and .parquet with text, .txt; .jsonl and .txt also as .xz, .gz) and folders"
    text.add_argument("--text", type=Path, nargs="+", default=[], help=read)
    text.add_argument(
        "--questions",
        type=Path,
        nargs="+",
        default=[],
        help="questions (of a folder: train): their passages, the right ending in the place of <HOLDING>",
    )
    text.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR_OR_FILE",
        help="leave out texts and passages that share 13 consecutive words with these (of a folder: validation, test)",
    )
    model = parser.add_argument_group("model", "e.g. --params 5m --vocab 4096; or --model smollm2")
    model.add_argument(
        "--model", help="go on with this one and its tokenizer (hub name, folder, .gguf or smollm2), not with a new one"
    )
    model.add_argument("--params", choices=SIZES, default="15m", help="size, in weights")
    model.add_argument("--vocab", type=positive_int, default=8192, help="tokens of the vocabulary")
    training = parser.add_argument_group("training", "e.g. --minutes 30 --batch-size 4")
    length = training.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=positive_float, help="of training steps, by the speed measured at the start")
    length.add_argument("--epochs", type=positive_int, help="passes over the text")
    training.add_argument("--row-length", type=positive_int, default=512, help="tokens of a row")
    training.add_argument("--batch-size", type=positive_int, default=16, help="rows a step")
    training.add_argument("--learning-rate", type=positive_float, help="of AdamW, at its highest (default: by size)")
    training.add_argument("--seed", type=seed, default=0, help="of weights, order and what is held out")
    training.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on a GPU; the faster on a CPU"
    )
    training.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="torch.compile: faster steps after a minute of waiting (default: on a GPU)",
    )
    run = parser.add_argument_group("run", "e.g. --output models/law; once stopped: --output models/law --resume")
    run.add_argument("--output", type=Path, required=True, help="folder of the model")
    run.add_argument("--resume", action="store_true", help="go on with --output")
    run.add_argument("--save-every", type=positive_int, default=100, help="steps between checkpoints")
    run.add_argument("--workers", type=positive_int, default=os.cpu_count(), help="processes that clean the text")
    return parser


def read_settings(argv: list[str] | None) -> argparse.Namespace:
    """The flags; with --resume those the run was started with, and no others may be given."""
    parser = build_parser()
    parsed, typed = parse_typed(parser, argv)
    args = argparse.Namespace(**parsed)
    if args.resume:
        extra = [name for name in typed if name not in ("resume", "output")]
        if extra:
            parser.error(f"--resume takes --output alone, not --{extra[0].replace('_', '-')}: the run has its settings")
        return args
    if not args.text and not args.questions:
        parser.error("give --text or --questions, or --resume")
    if not args.minutes and not args.epochs:
        parser.error("give --minutes or --epochs")
    if args.vocab < MIN_VOCAB:
        parser.error(f"--vocab is at least {MIN_VOCAB}: the 256 bytes, the end-of-text token and some pairs")
    if args.model and (mixed := {"params", "vocab"} & set(typed)):
        parser.error(f"--{min(mixed)} is of a new model; --model {args.model} has its own")
    if not 2 <= args.row_length <= MAX_POSITIONS:
        parser.error(f"--row-length is 2 to {MAX_POSITIONS}")
    usual = CONTINUED_LEARNING_RATE if args.model else LEARNING_RATES[args.params]
    args.learning_rate = args.learning_rate or usual
    return args


def main(argv: list[str] | None = None) -> int:
    args = read_settings(argv)
    with claimed(args.output, new=not args.resume):
        if not args.resume:
            start(args)
        return train(args.output)


def train(output: Path) -> int:
    work = output / WORK_FOLDER
    record = read_run(work)
    if record["finished"]:
        raise InputError(f"{output}: this model is finished; use it with --model {output}")
    check_sums(work)
    settings = argparse.Namespace(**({"model": None} | record["settings"]))  # an older version's run has none
    tokenizer, rows = load_tokenizer(str(work)), Rows.load(work, record["held_out_bytes"])
    device = default_device()

    def training_of(num_steps: int, precision: str) -> Pretraining:
        torch.manual_seed(settings.seed)
        return Pretraining(
            start_of(settings, record, tokenizer).to(device),
            num_steps,
            settings.learning_rate,
            weight_decay=WEIGHT_DECAY,
            precision=precision,
            compiled=device.type == "cuda" if settings.compile is None else settings.compile,
        )

    if "num_steps" not in record:
        options = [pick_precision(settings.precision)]
        if settings.precision == "auto" and not torch.cuda.is_available():
            options = ["fp32", "bf16"]
        record |= plan(settings, rows.train, options, training_of)
        write_run(work, record)
    num_steps, precision = record["num_steps"], record["precision"]
    training = training_of(num_steps, precision)
    state = {"step": 0, "metrics_bytes": 0, "seconds": 0.0}
    if (work / CHECKPOINT).exists():
        state = training.load(work / CHECKPOINT)
    log = MetricsLog(work, state["metrics_bytes"])
    print(describe_device(device, precision))
    print(
        f"{training.model.num_parameters():,} weights, {rows.train.numel():,} tokens, {num_steps} steps of "
        f"{settings.batch_size * settings.row_length:,} tokens in {precision}"
    )

    if settings.model and not state["step"]:
        print(say(training.evaluate(rows.held_out, rows.held_out_bytes), "before the first step"))
    order_of = lru_cache(maxsize=1)(partial(epoch_order, len(rows.train), settings.seed))
    request = StopRequest()
    before, began = state["seconds"], time.perf_counter()
    evaluate_every = math.ceil(num_steps / NUM_EVALUATIONS)
    bar = progress(total=num_steps, initial=state["step"], unit="step")
    for step in range(state["step"], num_steps):
        step_began = time.perf_counter()
        places = range(step * settings.batch_size, (step + 1) * settings.batch_size)
        indices = [order_of(place // len(rows.train))[place % len(rows.train)] for place in places]
        learning_rate = training.schedule.get_last_lr()[0]
        loss = training.step(rows.train[indices].split(ROWS_AT_ONCE))
        if not math.isfinite(loss):
            raise InputError(f"step {step}: the loss is not finite; start again with a lower --learning-rate")
        speed = settings.batch_size * settings.row_length / (time.perf_counter() - step_began)
        log.write(
            step=step,
            loss=loss,
            learning_rate=learning_rate,
            tokens_per_second=speed,
            peak_memory_gb=peak_memory_gb(device),
        )
        bar.set_postfix(loss=f"{loss:.3f}", tokens_per_second=f"{speed:,.0f}", refresh=False)
        bar.update()
        last = step == num_steps - 1
        if last or (step + 1) % evaluate_every == 0:
            held_out = training.evaluate(rows.held_out, rows.held_out_bytes)
            log.write(step=step, **held_out)
            bar.write(say(held_out, f"step {step + 1}"))
        if last or request.signum or (step + 1) % settings.save_every == 0:
            seconds = before + time.perf_counter() - began
            training.save(work / CHECKPOINT, step=step + 1, metrics_bytes=log.size, seconds=seconds)
        if request.signum and not last:
            bar.close()
            print(
                f"stopped after step {step}; go on: python tools/pretrain_lm.py --resume --output {quote(str(output))}"
            )
            return 128 + request.signum
    bar.close()
    finish(output, record, training, tokenizer)
    return 0


def start_of(settings: argparse.Namespace, record: dict, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model before any step: one from elsewhere, whose weights have to be those of the beginning, or a new one."""
    if settings.model:
        loaded = load_model(settings.model, torch.float32, merge=True)
        if loaded.weights_sha256 != record["base_sha256"]:
            raise InputError(f"{settings.model}: not the weights that this run began with; start again with it")
        return loaded.model
    size = SIZES[settings.params]
    heads = size["hidden_size"] // 64
    return new_model(tokenizer, num_attention_heads=heads, max_position_embeddings=MAX_POSITIONS, **size)


def start(args: argparse.Namespace) -> None:
    """Read the text and leave tokenizer, rows and settings in the work folder, whole or not at all."""
    base = load_base(args) if args.model else None
    ngrams = held_out_ngrams(args.exclude)
    passages = filled_passages(args.questions)
    texts = [text for text in passages if not shares_ngram(text, ngrams)]
    if args.questions:
        left_out = f"{len(passages) - len(texts):,} left out for words of questions to exclude"
        print(f"questions: {len(passages):,} read, {left_out}")
    if args.text:
        corpus = load_corpus(args.text, ngrams, args.workers)
        print(f"texts: {corpus.num_read:,} read, {corpus.num_excluded:,} left out for words of questions to exclude")
        texts += [opinion.text.replace(f" {PAGE_BREAK} ", " ") for opinion in corpus.opinions]
    if not texts:
        raise InputError("no text is left: every passage shares words with the questions to exclude")
    tokenizer, rows = prepare(texts, base.tokenizer if base else args.vocab, args.row_length, args.seed)
    settings = json.loads(json.dumps(vars(args), default=lambda value: str(value)))
    record = {"settings": settings, "held_out_bytes": rows.held_out_bytes, "libraries": library_versions()}
    if base:
        record |= {"base_model": base.model.name_or_path, "base_sha256": base.weights_sha256}
    with atomic_dir(args.output / WORK_FOLDER) as folder:
        tokenizer.save_pretrained(folder, save_jinja_files=False)
        rows.save(folder)
        write_sums(folder)  # not of what changes: the record and the checkpoints
        write_run(folder, record | {"finished": False})


def load_base(args: argparse.Namespace) -> LoadedModel:
    """--model, which is named in full from then on. Raises InputError for a run: its record would be lost."""
    base = load_model(args.model, torch.float32, merge=True)
    if base.prompt:
        raise InputError(f"{args.model}: a run; --model takes a model that has not been tuned, and tuning comes after")
    args.model = base.model.name_or_path
    check_family(base.model, 0)  # of any length: what is no use to training is not trained
    positions = made_for(base.model.config.get_text_config())
    if positions and args.row_length > positions:
        raise InputError(f"{args.model}: was made for {positions} positions; --row-length is at most that")
    return base


def finish(output: Path, record: dict, training: Pretraining, tokenizer) -> None:
    """Write the model folder, its configuration last, since with it the folder counts as a model; then tidy up."""
    work, settings = output / WORK_FOLDER, record["settings"]
    metrics = read_metrics(work)
    plot_pretraining(metrics, output / "curve.png")
    with tempfile.TemporaryDirectory(suffix=INCOMPLETE, dir=output) as temporary:
        training.model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary, save_jinja_files=False)  # which several templates put into a folder
        files = sorted(Path(temporary).iterdir(), key=lambda path: path.name == "config.json")
        for path in files:
            path.replace(output / path.name)
    write_sums(output, [path.name for path in files])
    speeds = sorted(line["tokens_per_second"] for line in metrics if "tokens_per_second" in line)
    speed = speeds[len(speeds) // 2]
    reached = speed * flops_per_token(training, settings["row_length"])
    share = reached / peak_flops(training.device, record["precision"])
    result = {name: metrics[-1][name] for name in ("held_out_perplexity", "bits_per_byte")}
    result |= {"tokens_per_second": speed, "gflops": reached / 1e9, "share_of_peak": share}
    write_run(work, record | {"result": result, "finished": True})
    for name in (SUMS_FILE, CHECKPOINT, "rows.safetensors"):
        (work / name).unlink(missing_ok=True)
    print(f"{speed:,.0f} tokens/s, {reached / 1e9:,.0f} GFLOP/s, {share:.0%} of a large product's")
    print(
        f"{output}: model, tokenizer and curve.png; next: python train_sdpo.py --num-neg 4 --model {quote(str(output))}"
    )


if __name__ == "__main__":
    run_script(main)
