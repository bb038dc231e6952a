"""Teach a language model to pick the right holding: multi-negative preference optimisation through LoRA.

python train_sdpo.py --num-neg 4                                 Qwen2.5-0.5B on CaseHOLD from the hub
python train_sdpo.py --num-neg 4 --data DIR --output runs/mine   your own questions
python train_sdpo.py --num-neg 4 --model demo --data demo        without a network
python train_sdpo.py --resume                                    go on with the newest unfinished run
"""

import argparse
import math
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import LoraConfig, PeftModel, get_peft_model
from tqdm import tqdm
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from lib.checkpoint import Checkpoints
from lib.cli import HelpFormatter, positive_float, positive_int, share
from lib.data import Dataset, load_split
from lib.errors import InputError, run_script
from lib.evaluation import Scored, is_correct
from lib.inference import SCORING_BATCH_SIZE, score_questions, start_accelerator
from lib.losses import LOSSES
from lib.models import DTYPES, load_model, pick_precision, weights_sha256
from lib.negatives import TrainingQuestion, draw_candidates, epoch_order, training_questions
from lib.prompt import PromptConfig, encode_questions, report_encoding
from lib.reference import reference_logprobs
from lib.runs import MetricsLog, finish_run, new_run_folder, newest_unfinished, open_run, peak_memory_gb, read_run
from lib.scoring import PackedScorer
from lib.selfcheck import check_family, check_packed_pass
from lib.training import SUMS, catch_interrupt, micro_batches, step_means, step_sums, training_batch

# The paper does not state these; they are the field's usual values.
WARMUP_SHARE = 0.05  # of all steps; then linear decay to 0
WEIGHT_DECAY = 0.0
MAX_GRAD_NORM = 1.0
LORA_TARGETS = "all-linear"

SWITCH = argparse.BooleanOptionalAction
# The paper's settings where the defaults differ: 256 tokens cut 72 % of the CaseHOLD questions.
PRESETS = {"paper": {"max_length": 256}}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    data = parser.add_argument_group("data")
    data.add_argument("--data", default="casehold", help="casehold (from the hub), demo, or a jsonl/csv file or folder")
    data.add_argument("--candidates", metavar="FILE", help="class names, one a line, for data with text and label")
    data.add_argument("--limit", type=positive_int, help="only the first N questions of each split")
    data.add_argument("--template", help="prompt template (default: {context}, {question} or {prompt}, by the data)")
    data.add_argument("--max-length", type=positive_int, default=512, help="tokens of prompt and longest candidate")
    data.add_argument(
        "--end-token",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="close endings with the end-of-text token",
    )
    data.add_argument("--strict", action="store_true", help="stop at empty or equal endings instead of counting them")

    objective = parser.add_argument_group("objective")
    objective.add_argument("--loss", choices=sorted(LOSSES), default="sdpo", help="what is minimised")
    objective.add_argument("--num-neg", type=positive_int, default=4, help="negatives drawn a question and epoch")
    objective.add_argument(
        "--beta", type=positive_float, default=0.1, help="scale of the implicit reward; ours, the paper states none"
    )

    model = parser.add_argument_group("model and adapter")
    model.add_argument("--model", default="Qwen/Qwen2.5-0.5B", help="hub name, model folder, finished run, or demo")
    model.add_argument("--lora-r", type=positive_int, default=8, help="rank")
    model.add_argument("--lora-alpha", type=positive_int, default=32, help="scale is alpha / rank")
    model.add_argument("--lora-dropout", type=share, default=0.1, help="dropout before the adapter")

    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=positive_int, default=3, help="passes over the questions")
    training.add_argument("--batch-size", type=positive_int, default=2, help="questions a process takes at once")
    training.add_argument("--grad-accum", type=positive_int, default=1, help="batches a step adds up")
    training.add_argument("--learning-rate", type=positive_float, default=5e-5, help="of AdamW, at its highest")
    training.add_argument("--seed", type=int, default=0, help="of adapter, dropout, order and negatives")
    training.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on a GPU")
    training.add_argument("--grad-checkpointing", action=SWITCH, help="less memory, more time (default: on a GPU)")
    training.add_argument("--preset", choices=sorted(PRESETS), help="paper: the paper's settings, 256 tokens with them")

    run = parser.add_argument_group("run")
    run.add_argument("--output", help="run folder (default: a new one under runs/)")
    run.add_argument("--resume", action="store_true", help="go on with --output, or with the newest unfinished run")
    run.add_argument("--save-every", type=positive_int, default=200, help="steps between checkpoints")
    return parser


def read_settings(argv: list[str] | None) -> tuple[argparse.Namespace, Path, bool]:
    """The settings (given flags over a resumed run's over the preset's over the defaults), the run folder, and
    whether it is resumed.

    Raises InputError where a flag contradicts the run that is resumed.
    """
    parser = build_parser()
    parsed = vars(parser.parse_args(argv))
    unset = object()
    given = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(parsed, unset))))
    given = {name: value for name, value in given.items() if value is not unset}
    output, resume = parsed.pop("output"), parsed.pop("resume")
    settings = parsed | PRESETS.get(parsed["preset"], {}) | {name: given[name] for name in parsed.keys() & given.keys()}
    if resume:
        folder = Path(output) if output else newest_unfinished()
        saved = read_run(folder)["settings"]
        for name in parsed.keys() & given.keys():
            if settings[name] != saved[name]:
                flag = "--" + name.replace("_", "-")
                raise InputError(
                    f"{folder}: the run was started with {flag} {saved[name]}, not {settings[name]}; leave it out"
                )
        settings = saved
    else:
        folder = Path(output) if output else new_run_folder(f"{settings['loss']}-neg{settings['num_neg']}")
    return argparse.Namespace(**settings), folder, resume


def main(argv: list[str] | None = None) -> int:
    settings, folder, resume = read_settings(argv)
    precision = pick_precision(settings.precision)
    accelerator = start_accelerator(precision)
    set_seed(settings.seed)
    with accelerator.main_process_first():  # whoever comes second finds what the first one fetched
        train, validation = load_data(settings)
        loaded = load_model(settings.model, DTYPES[precision], merge=True)
    prompt = PromptConfig(settings.template or train.default_template, settings.max_length, settings.end_token)
    encoded = encode_questions(train.questions, loaded.tokenizer, prompt)
    encoded_validation = encode_questions(validation.questions, loaded.tokenizer, prompt)
    questions, dropped = training_questions(encoded)
    report = [*report_encoding(train, encoded), *(f"  dropped: {count} {what}" for what, count in dropped.items())]
    accelerator.print("\n".join(report))
    if not questions:
        raise InputError(f"{train.source}: no question is left to train on")
    check_family(loaded.model, max(item.num_tokens for item in (*encoded, *encoded_validation)))
    base_sha256 = weights_sha256(loaded.model)

    model = add_adapter(loaded.model, settings, accelerator.device)
    adapter = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(adapter, lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    window_size = settings.batch_size * settings.grad_accum * accelerator.num_processes  # questions a step
    steps_per_epoch = math.ceil(len(questions) / window_size)
    num_steps = settings.epochs * steps_per_epoch
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(WARMUP_SHARE * num_steps), num_steps)
    scorer, optimizer, schedule = accelerator.prepare(PackedScorer(model), optimizer, schedule)
    plain_scorer = accelerator.unwrap_model(scorer)

    shortest = min(encoded, key=lambda item: item.num_tokens)
    difference = check_packed_pass(plain_scorer, shortest, accelerator.device, precision)
    accelerator.print(f"self-check: packed and unpacked log-probs agree to {difference:.1e} in {precision}")
    reference = reference_logprobs(
        plain_scorer, [item.encoded for item in questions], accelerator, weights_sha256=base_sha256, precision=precision
    )

    identity = {
        "base_sha256": base_sha256,
        "data_sha256": {"train": train.sha256, "validation": validation.sha256},
        "prompt": vars(prompt),
        "num_processes": accelerator.num_processes,
        "precision": precision,
    }
    record = open_run(folder, vars(settings), identity, resume=resume) if accelerator.is_main_process else None
    checkpoints = Checkpoints(folder, accelerator, model)
    state = (checkpoints.load_newest() if resume else None) or {"step": 0, "metrics_bytes": 0}
    log = MetricsLog(folder, state["metrics_bytes"]) if accelerator.is_main_process else None

    interrupted = catch_interrupt()
    bar = tqdm(total=num_steps, initial=state["step"], unit="step", disable=not accelerator.is_main_process)
    scorer.train()
    for step in range(state["step"], num_steps):
        began = time.perf_counter()
        epoch, position = divmod(step, steps_per_epoch)
        order = epoch_order(len(questions), settings.seed, epoch)
        window = order[position * window_size : (position + 1) * window_size]
        learning_rate = schedule.get_last_lr()[0]
        sums = backward_window(scorer, questions, reference, window, settings, accelerator, step=step, epoch=epoch)
        grad_norm = accelerator.clip_grad_norm_(adapter, MAX_GRAD_NORM).item()
        if not math.isfinite(grad_norm):
            raise not_finite(step, "gradient", [questions[index] for index in window])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

        means, totals = step_means(accelerator.reduce(sums))
        seconds = time.perf_counter() - began
        if log:
            log.write(
                step=step,
                epoch=epoch,
                **means,
                grad_norm=grad_norm,
                learning_rate=learning_rate,
                questions_per_second=totals["questions"] / seconds,
                tokens_per_second=totals["tokens"] / seconds,
                peak_memory_gb=peak_memory_gb(accelerator.device),
            )
        if step == 0:
            bar.write(f"step 0: loss {means['loss']:.4f}, rewards {means['reward_chosen']:.4f} (nothing is learnt yet)")
        shown = {name: means[key] for name, key in (("loss", "loss"), ("acc", "reward_accuracy"), ("margin", "margin"))}
        bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()})
        bar.update()

        end_of_epoch = position == steps_per_epoch - 1
        if end_of_epoch:
            logprobs = score_questions(
                plain_scorer, encoded_validation, accelerator, batch_size=SCORING_BATCH_SIZE, description="validation"
            )
            accuracy = is_correct(Scored(encoded_validation, logprobs).predictions("sum")).mean()
            bar.write(f"epoch {epoch + 1}: validation accuracy {accuracy:.1%} of {len(logprobs)}")
            if log:
                log.write(step=step, epoch=epoch, validation_accuracy=accuracy)
        stop = bool(accelerator.reduce(torch.tensor(float(interrupted.is_set()), device=accelerator.device)))
        if end_of_epoch or stop or (step + 1) % settings.save_every == 0:
            checkpoints.save(step + 1, metrics_bytes=log.size if log else 0)
        if stop:
            bar.close()
            accelerator.print(f"stopped after step {step}; go on: python train_sdpo.py --resume --output {folder}")
            return 130
    bar.close()

    if accelerator.is_main_process:
        finish_run(folder, record, model, loaded.tokenizer, prompt)
        data = "" if settings.data == "casehold" else f" --data {settings.data}"
        data += f" --candidates {settings.candidates}" if settings.candidates else ""
        print(f"{folder}: adapter, metrics.jsonl and curve.png")
        print(f"next: python eval_mc.py --split test --model {folder}{data}")
    accelerator.end_training()
    return 0


def load_data(settings: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """The training and validation splits."""
    train, validation = (
        load_split(
            settings.data,
            split,
            limit=settings.limit,
            strict=settings.strict,
            candidates_file=settings.candidates,
        )
        for split in ("train", "validation")
    )
    if train.sha256 == validation.sha256:
        print("warning: validation is the training file itself; its accuracy says nothing of new questions")
    return train, validation


def add_adapter(model: PreTrainedModel, settings: argparse.Namespace, device: torch.device) -> PeftModel:
    """The policy: `model` frozen, with a fresh LoRA adapter that changes nothing yet. With the adapter switched off
    it is the reference."""
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    policy = get_peft_model(model, config)
    if device.type == "cuda" if settings.grad_checkpointing is None else settings.grad_checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return policy


def backward_window(
    scorer: torch.nn.Module,
    questions: list[TrainingQuestion],
    reference: list[list[float]],
    window: list[int],
    settings: argparse.Namespace,
    accelerator: Accelerator,
    *,
    step: int,
    epoch: int,
) -> torch.Tensor:
    """Forward and backward for this process's share of one step's questions; returns their `step_sums`.

    Each question of the window weighs the same, however it is cut into batches and processes.
    """
    batches = micro_batches(window, settings.batch_size, accelerator.process_index, accelerator.num_processes)
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=accelerator.device)
    for number, indices in enumerate(batches, start=1):
        # An empty share takes a stand-in of weight 0, since every process has to join in every backward pass.
        members = [questions[index] for index in indices or window[:1]]
        batch = training_batch(
            members,
            [draw_candidates(member, settings.num_neg, settings.seed, epoch) for member in members],
            [reference[index] for index in indices or window[:1]],
            accelerator.device,
            weight=float(bool(indices)),
        )
        with nullcontext() if number == len(batches) else accelerator.no_sync(scorer):
            logprobs = scorer(batch.packed)  # (B, K)
            scaled = settings.beta * (logprobs - batch.reference)
            losses = LOSSES[settings.loss](scaled, batch.mask, batch.rewards)  # (B,)
            if not torch.isfinite(losses).all():
                raise not_finite(step, "loss", members)
            # The processes' gradients are averaged, hence their number.
            accelerator.backward((losses * batch.weight).sum() * accelerator.num_processes / len(window))
        sums += step_sums(batch, losses, scaled, logprobs)
    return sums


def not_finite(step: int, what: str, members: list[TrainingQuestion]) -> InputError:
    ids = ", ".join(member.encoded.question.id for member in members)
    return InputError(f"step {step}: the {what} is not finite on questions {ids}; lower --learning-rate or --beta")


if __name__ == "__main__":
    run_script(main)
