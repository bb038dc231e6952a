"""Teach a language model to pick the right holding: multi-negative preference optimisation through LoRA.

python train_sdpo.py --num-neg 4                                 Qwen2.5-0.5B on CaseHOLD from the hub
python train_sdpo.py --num-neg 4 --data DIR --output runs/mine   your own questions
python train_sdpo.py --num-neg 4 --model demo --data demo        without a network
python train_sdpo.py --loss swepo --weighting exp                another objective of the family
python train_sdpo.py --num-neg 4 --model runs/sft                start from a run: its merged model is the reference
python train_sdpo.py --resume                                    go on with the newest unfinished run
"""

import argparse
import math
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from shlex import quote

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, set_seed
from transformers import get_linear_schedule_with_warmup

from lib.cli import (
    HelpFormatter,
    flag,
    nonnegative_float,
    nonnegative_int,
    parse_typed,
    positive_float,
    positive_int,
    seed,
    share,
)
from lib.errors import StopRequest, run_script
from lib.evaluation.card import model_card
from lib.evaluation.predictions import predictions_file, write_every_score
from lib.evaluation.scores import Scored
from lib.hub import push_run, repo_name, require_token
from lib.models.checkpoint import Checkpoints
from lib.models.claim import claim_run
from lib.models.device import describe_device
from lib.models.loading import pick_precision
from lib.models.runs import RUNS, finish_run, open_run, read_metrics, resumed_settings
from lib.packed.inference import Logprobs, score_questions, start_accelerator
from lib.packed.neutral import neutral_logprobs
from lib.packed.reference import reference_logprobs
from lib.packed.scoring import PackedScorer
from lib.packed.selfcheck import check_packed_pass
from lib.training.batches import GlobalBatch
from lib.training.journal import Journal, what_next
from lib.training.losses import LOSSES, LossOptions
from lib.training.negatives import NEGATIVES, epoch_order
from lib.training.preparation import Start, load_start, with_reference
from lib.training.recipe import make_recipe, num_negatives, without_effect
from lib.training.rewards import REWARDS
from lib.training.step import backward, read_step, step_means
from lib.training.trackers import TRACKERS, pick_tracker, start_tracker

# Marsh states none of these; they are the field's usual values.
WARMUP_SHARE = 0.05  # of all steps; then linear decay to 0
WEIGHT_DECAY = 0.0
MAX_GRAD_NORM = 1.0

PATIENCE = timedelta(hours=1)  # of a process with the others: for a download, or what another run computes

SWITCH = argparse.BooleanOptionalAction
# Marsh's settings where the defaults differ: 256 tokens cut 71 % of the CaseHOLD questions.
PRESETS = {"marsh": {"max_length": 256}}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    group = parser.add_argument_group
    add_data_flags(group("data", "e.g. --data questions/ --limit 500 --validation-share 0.1"))
    add_objective_flags(group("objective", "e.g. --loss swepo --weighting exp --alpha 2"))
    add_negatives_flags(group("negatives", "e.g. --num-neg 3 --negatives hard --hard-temperature 5"))
    model = group("model and adapter", "e.g. --model smollm2 --lora-r 16 --lora-alpha 64")
    add_training_flags(model, group("training", "e.g. --epochs 2 --batch-size 4 --grad-accum 4 --learning-rate 1e-4"))
    run = group("run", "e.g. --output runs/mine --save-every 50; once it was stopped: --output runs/mine --resume")
    run.add_argument("--output", help="run folder (default: a new one under runs/)")
    run.add_argument("--resume", action="store_true", help="go on with --output, or with the newest unfinished run")
    run.add_argument("--save-every", type=positive_int, default=200, help="steps between checkpoints")
    tracker = "log what metrics.jsonl holds with an experiment tracker too, in the run folder"
    run.add_argument("--report-to", choices=("none", *TRACKERS), default="none", help=tracker)
    push = "push the finished run to this repository of the hub, all but its checkpoints"
    run.add_argument("--push-to-hub", type=repo_name, metavar="NAME", help=push)
    parser.set_defaults(**vars(LossOptions()))
    return parser


def add_data_flags(data) -> None:
    named = "of the hub casehold, lexglue/scotus, legalbench/TASK and others; demo; or a jsonl/csv file or folder"
    data.add_argument("--data", default="casehold", help=named)
    data.add_argument("--candidates", metavar="FILE", help="class names, one a line, for data with text and label")
    data.add_argument("--limit", type=positive_int, help="only the first N questions of each split")
    data.add_argument("--template", help="prompt template (default: {context}, {question} or {prompt}, by the data)")
    data.add_argument("--max-length", type=positive_int, default=512, help="tokens of prompt and longest candidate")
    ending = "tokens of an ending, past which it is cut on its right (default: half of --max-length)"
    data.add_argument("--max-ending", type=positive_int, help=ending)
    data.add_argument("--end-token", action=SWITCH, default=True, help="close endings with the end-of-text token")
    data.add_argument("--strict", action="store_true", help="refuse empty, equal and cut endings, else only counted")
    data.add_argument("--validation-share", type=share, help="take this share of train in place of a validation split")


def add_objective_flags(objective) -> None:
    add = objective.add_argument
    add("--loss", choices=list(LOSSES), default="sdpo", help="what is minimised")
    add("--beta", type=positive_float, help="scale of the implicit reward (Marsh states none, Chen et al. take 1)")
    add("--sft-weight", type=nonnegative_float, help="add the positive's cross-entropy, times this, to any loss")
    add("--reward-temperature", type=positive_float, help="infonca, nca: targets are softmax(reward / this)")
    add("--weighting", choices=("power", "exp"), help="swepo: a candidate weighs |r - mean|^p, or exp(a |r - mean|)")
    add("--power", type=int, choices=(0, 1, 2), help="swepo: p of --weighting power")
    add("--alpha", type=nonnegative_float, help="swepo: a of --weighting exp")
    groups = "swepo: positives are all above the mean reward, or the best alone (the others are left out)"
    add("--swepo-groups", choices=("dynamic", "1-vs-k"), default="dynamic", help=groups)
    rewards = "the data's; or similarity: 1 for the gold, and for the others their token F1 with it"
    add("--rewards", choices=REWARDS, default="data", help=rewards)


def add_negatives_flags(negatives) -> None:
    add = negatives.add_argument
    add("--num-neg", type=positive_int, default=4, help="negatives drawn a question and epoch")
    kinds = "hard: those of higher pmi under the reference; lowest: those of lowest reward"
    add("--negatives", choices=NEGATIVES, default="random", help=kinds)
    odds = "odds of a hard negative are exp(pmi / this): low draws the highest, high draws at random"
    add("--hard-temperature", type=positive_float, default=10.0, help=odds)
    own = "endings that the starting model writes for each prompt, to join the negatives"
    add("--self-negatives", type=nonnegative_int, default=0, metavar="N", help=own)


def add_training_flags(model, training) -> None:
    start = "hub name, model folder, .gguf, finished run, smollm2 or demo"
    model.add_argument("--model", default="Qwen/Qwen2.5-0.5B", help=start)
    model.add_argument("--lora-r", type=nonnegative_int, default=8, help="rank; 0: no adapter, every weight is trained")
    model.add_argument("--lora-alpha", type=positive_int, default=32, help="scale is alpha / rank")
    model.add_argument("--lora-dropout", type=share, default=0.1, help="dropout before the adapter")
    four = "freeze the base in 4 bits (nf4, as QLoRA): a quarter of bf16's memory, more time"
    model.add_argument("--load-in-4bit", action="store_true", help=four)
    training.add_argument("--epochs", type=positive_int, default=3, help="passes over the questions")
    training.add_argument("--batch-size", type=positive_int, default=2, help="questions a process takes at once")
    training.add_argument("--grad-accum", type=positive_int, default=1, help="batches a step adds up")
    training.add_argument("--learning-rate", type=positive_float, default=5e-5, help="of AdamW, at its highest")
    training.add_argument("--seed", type=seed, default=0, help="of adapter, dropout, order and negatives")
    training.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on a GPU")
    checkpointing = "less memory, more time (default: where a GPU's memory asks for it)"
    training.add_argument("--grad-checkpointing", action=SWITCH, help=checkpointing)
    training.add_argument(
        "--preset", choices=sorted(PRESETS), help="marsh: --max-length 256, Marsh's one setting that differs here"
    )


def read_flags(argv: list[str] | None) -> tuple[dict, set[str]]:
    """The flags by name (given ones over the preset's over the defaults), and the names of those that were given."""
    parser = build_parser()
    flags, typed = parse_typed(parser, argv)
    flags |= PRESETS.get(flags["preset"], {}) | typed
    if flags["load_in_4bit"] and not flags["lora_r"]:
        parser.error("--load-in-4bit freezes the base, and --lora-r 0 trains it; leave one out")
    flags["num_neg"] = num_negatives(flags)
    return flags, set(typed)


@contextmanager
def claim(argv: list[str] | None) -> Iterator[tuple[argparse.Namespace, Path, bool]]:
    """The settings, a resumed run's over the flags; the run's folder, for this run alone until the block ends; and
    whether it is resumed. Every process gets the same. Raises InputError where a flag contradicts the run."""
    settings, typed = read_flags(argv)
    output, resume = settings.pop("output"), settings.pop("resume")
    processes = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    with ExitStack() as stack:
        folder = None
        if processes.is_main_process:
            name = f"{settings['loss']}-neg{settings['num_neg']}"
            folder = stack.enter_context(claim_run(Path(output) if output else None, name, resume=resume))
            idle = without_effect(settings) & typed
            if settings["model"] == str(RUNS / "latest") and not resume:  # which will be another one
                settings["model"] = str(RUNS / (RUNS / "latest").resolve().name)
            if resume:
                typed -= {"model"} if settings["model"] == str(RUNS / "latest") else set()
                settings = resumed_settings(folder, settings, typed)
            elif idle:
                print(f"note: without effect under the other settings: {', '.join(map(flag, sorted(idle)))}")
        settings, folder = broadcast_object_list([settings, folder])
        yield argparse.Namespace(**settings), folder, resume


def main(argv: list[str] | None = None) -> int:
    with claim(argv) as (settings, folder, resume):
        return train(settings, folder, resume=resume)


def train(settings: argparse.Namespace, folder: Path, *, resume: bool) -> int:
    tracker = pick_tracker(settings.report_to)
    if settings.push_to_hub:
        require_token(settings.push_to_hub)
    recipe = make_recipe(vars(settings))
    precision = pick_precision(settings.precision)
    accelerator = start_accelerator(precision, tracker, folder)
    accelerator.print(describe_device(accelerator.device, precision))
    set_seed(settings.seed)
    start = load_start(settings, recipe, precision, accelerator)
    questions, validation = start.questions, start.validation

    trained = [parameter for parameter in start.model.parameters() if parameter.requires_grad]
    fused = accelerator.device.type == "cuda" or None  # one kernel for all weights; on a CPU PyTorch's own choice
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=WEIGHT_DECAY, fused=fused)
    global_batch_size = settings.batch_size * settings.grad_accum * accelerator.num_processes  # questions a step
    steps_per_epoch = math.ceil(len(questions) / global_batch_size)
    num_steps = settings.epochs * steps_per_epoch
    warmup = math.ceil(WARMUP_SHARE * num_steps) if num_steps > 1 else 0  # its first step has a rate of 0
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, num_steps)
    scorer, optimizer, schedule = accelerator.prepare(PackedScorer(start.model), optimizer, schedule)
    plain_scorer = accelerator.unwrap_model(scorer)

    difference, checked_in = check_packed_pass(plain_scorer, [item.encoded for item in questions], accelerator.device)
    accelerator.print(f"self-check: packed and unpacked log-probs agree to {difference:.1e} in {checked_in}")
    identity = start.identity | {"num_processes": accelerator.num_processes, "precision": precision}
    record = open_run(folder, vars(settings), identity, resume=resume) if accelerator.is_main_process else None
    score = partial(
        reference_logprobs,
        plain_scorer,
        accelerator=accelerator,
        weights_sha256=start.loaded.weights_sha256,
        precision=precision,
    )
    questions = with_reference(questions, recipe, start.loaded.tokenizer, start.prompt, score)
    validation_reference = score(validation) if validation and recipe.objective.reference else None

    if accelerator.process_index:  # dropout of its own; the first process keeps that of a run alone
        torch.manual_seed(settings.seed + accelerator.process_index)
    checkpoints = Checkpoints(folder, accelerator, start.model)
    state = (checkpoints.load_newest() if resume else None) or {"step": 0, "metrics_bytes": 0}
    journal = Journal(folder, accelerator, num_steps, **state)
    start_tracker(accelerator, tracker, vars(settings), folder)
    order_of = lru_cache(maxsize=1)(partial(epoch_order, len(questions), settings.seed))
    request = StopRequest()
    scorer.train()
    for step in range(state["step"], num_steps):
        began = time.perf_counter()
        epoch, position = divmod(step, steps_per_epoch)
        drawn = order_of(epoch)[position * global_batch_size : (position + 1) * global_batch_size]
        batch = GlobalBatch([questions[index] for index in drawn], step, epoch)
        learning_rate = schedule.get_last_lr()[0]
        sums = backward(scorer, batch, settings.batch_size, recipe, accelerator)
        grad_norm = accelerator.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

        totals = read_step(sums, grad_norm, bool(request.signum), batch, accelerator)
        means, speed = step_means(totals, recipe.objective, time.perf_counter() - began)
        journal.step(step, epoch, means, grad_norm=totals["grad_norm"], learning_rate=learning_rate, **speed)
        end_of_epoch = position == steps_per_epoch - 1
        if end_of_epoch and validation:
            scored = score_validation(plain_scorer, start, validation_reference, accelerator)
            journal.validation(step, epoch, scored.accuracies, len(validation))
            if accelerator.is_main_process:
                write_every_score(folder / predictions_file("validation"), scored)
        stopped = totals["interrupted"] > 0  # a signal may reach some processes alone
        if end_of_epoch or stopped or (step + 1) % settings.save_every == 0:
            checkpoints.save(step + 1, metrics_bytes=journal.metrics_bytes)
        if stopped:
            journal.close()
            accelerator.print(
                f"stopped after step {step}; go on: python train_sdpo.py --resume --output {quote(str(folder))}"
            )
            return 128 + (request.signum or signal.SIGINT)
    journal.close()

    if accelerator.is_main_process:
        finish(settings, folder, record, start)
    # The wrapped model goes before the process group: where it holds the last reference to the group, PyTorch waits for
    # a thread of the group that in turn waits for Python.
    del scorer
    accelerator.free_memory()
    accelerator.end_training()
    if record and settings.push_to_hub:
        print(f"pushed: {push_run(folder, settings.push_to_hub)}")
    return 0


def score_validation(
    scorer: PackedScorer, start: Start, reference: Logprobs | None, accelerator: Accelerator
) -> Scored:
    """What the policy says of the validation questions now, by every score."""
    score = partial(score_questions, scorer, accelerator=accelerator, description="validation")
    neutral = neutral_logprobs(start.validation, start.loaded.tokenizer, start.prompt, score)
    return Scored(start.validation, score(start.validation), neutral, reference, contract=start.prompt.digest)


def finish(settings: argparse.Namespace, folder: Path, record: dict, start: Start) -> None:
    """Write what the run leaves behind, and say what to type next."""
    metrics = read_metrics(folder)
    card = model_card(record, metrics, len(start.questions), len(start.validation))
    finish_run(folder, record, start.model, start.loaded.tokenizer, start.prompt, card)
    print(what_next(settings, folder, metrics))


if __name__ == "__main__":
    run_script(main)
