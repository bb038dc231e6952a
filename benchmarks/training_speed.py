"""Questions a second of a training step, each way of training in turn on the same questions, on this machine.

    pip install -r benchmarks/requirements.txt
    python benchmarks/training_speed.py --model .cache/random-0.5b --data ../shared/casehold

Sides: TRL's DPOTrainer on a question's 4 pairs; S-DPO as its authors train, 5 whole sequences in one padded batch and
the reference computed anew; the packed pass with the reference computed anew, and with cached log-probs. All take one
question a step, 4 negatives, LoRA of rank 8 on all linear layers without dropout, AdamW, and the same precision. Every
side works in a process of its own, so that its peak memory is its own; loading, and a first step on another question,
are not timed. The packed sides take a question's step five times, for the median, where the others take minutes.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_int
from lib.errors import InputError, run_script
from lib.models.device import default_device, peak_memory_gb
from lib.models.loading import DTYPES, load_model, load_tokenizer, make_policy
from lib.packed.onednn_layers import use_onednn
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer
from lib.questions.data import load_split
from lib.questions.prompt import EncodedQuestion, encode_questions
from lib.questions.prompt_config import default_contract
from lib.training.losses import LossOptions, sdpo
from tables import machine, print_table, write_json
from timing import stopwatch

NUM_NEGATIVES, RANK, ALPHA, BETA, LEARNING_RATE = 4, 8, 32, 0.1, 5e-5
REPEATS = 5  # of a question on the sides that take seconds, for the median

# A step's work on one question: the loss, and the tokens that were fed to the policy.
Step = Callable[[EncodedQuestion], tuple[torch.Tensor, int]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--data", required=True, help="folder or file with questions, train split")
    parser.add_argument("--rounds", type=positive_int, default=3, help="rounds, new questions in each")
    parser.add_argument("--questions", type=positive_int, default=1, help="questions a round")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="of weights and products")
    parser.add_argument("--side", choices=SIDES, nargs="+", default=list(SIDES), help="what to run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--worker", type=int, metavar="ROUND", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker is not None:
        print(json.dumps(work(args)))
        return 0

    if "trl" in args.side and not importlib.util.find_spec("trl"):
        print("TRL is missing; pip install -r benchmarks/requirements.txt")
        args.side.remove("trl")
    measured = {name: [] for name in args.side}
    for number in tqdm(range(args.rounds), unit="round"):
        for name in args.side:
            flags = [*(sys.argv[1:] if argv is None else argv), "--side", name, "--worker", str(number)]
            child = subprocess.run([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True)
            if child.returncode:
                raise InputError(f"{name}: ended with {child.returncode}")
            measured[name].append(json.loads(child.stdout.splitlines()[-1]))
    report(measured, args)
    return 0


def work(args: argparse.Namespace) -> dict:
    """One side's round: seconds and tokens a question, the first loss, peak memory."""
    [side] = args.side
    repeats = 1 if side in ("trl", "concatenated") else REPEATS
    data = load_split(args.data, "train", limit=args.questions * (args.rounds + 1))
    tokenizer = load_tokenizer(args.model)
    encoded = encode_questions(data.questions, tokenizer, default_contract(data.default_template, tokenizer))
    asked = encoded[args.worker * args.questions :][: args.questions]
    device = default_device()
    torch.manual_seed(0)
    model = load_model(args.model, DTYPES[args.precision]).model.to(device)
    steps = SIDES[side](model, tokenizer, [encoded[-1], *repeats * asked], args, device)
    seconds, tokens, losses = [], [], []
    while True:
        stop = stopwatch(device)
        done = next(steps, None)
        if done is None:
            break
        seconds.append(stop())
        losses.append(done[0])
        tokens.append(done[1])
    timed = seconds[1:]
    return {
        "seconds": statistics.fmean(statistics.median(timed[start :: len(asked)]) for start in range(len(asked))),
        "tokens": statistics.fmean(tokens[1:]),
        "loss": losses[1],
        "peak_memory_gb": peak_memory_gb(device),
    }


def trl_steps(model, tokenizer, questions, args, device) -> Iterator[tuple[float, int]]:
    """Steps of TRL's own trainer, a question's pairs as one batch; it computes the reference with the adapter off."""
    import tempfile

    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    rows = []
    for item in questions:
        chosen, *rejected = by_label(item)
        prompt, end = tokenizer.decode(item.prompt_ids), tokenizer.eos_token_id
        texts = [tokenizer.decode([token for token in ids if token != end]) for ids in (chosen, *rejected)]
        rows += [{"prompt": prompt, "chosen": texts[0], "rejected": text} for text in texts[1:]]
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=NUM_NEGATIVES,
        learning_rate=LEARNING_RATE,
        beta=BETA,
        max_length=None,
        bf16=args.precision == "bf16",
        gradient_checkpointing=False,
        report_to=[],
        use_cpu=device.type == "cpu",
    )
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = DPOTrainer(
        model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # train() sets it, which we step through by hand
    trainer.model.train()
    for start in range(0, len(rows), NUM_NEGATIVES):
        batch = trainer.data_collator([trainer.train_dataset[start + offset] for offset in range(NUM_NEGATIVES)])
        loss = trainer.training_step(trainer.model, batch)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        yield loss.item(), batch["attention_mask"].sum().item()


def by_label(item: EncodedQuestion) -> list[list[int]]:
    """The right ending's ids, then the others'."""
    right = item.question.label
    return [item.ending_ids[right], *(ids for index, ids in enumerate(item.ending_ids) if index != right)]


def concatenated_steps(model, tokenizer, questions, args, device) -> Iterator[tuple[float, int]]:
    """Prompt and ending of every candidate as rows of one padded batch, logits of all of it, the reference too."""
    policy = make_policy(model, RANK, ALPHA, 0.0, checkpointing=False)

    def logprobs(item: EncodedQuestion) -> torch.Tensor:
        rows = [torch.tensor([*item.prompt_ids, *ids]) for ids in item.ending_ids]
        lengths = torch.tensor([len(row) for row in rows])
        input_ids = pad_sequence(rows, batch_first=True).to(device)
        positions = torch.arange(input_ids.shape[1])
        attention_mask = (positions < lengths[:, None]).long().to(device)
        logits = policy(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        taken = logits[:, :-1].float().log_softmax(-1).gather(2, input_ids[:, 1:, None]).squeeze(2)
        ending = (positions[1:] >= len(item.prompt_ids)) & (positions[1:] < lengths[:, None])
        return (taken * ending.to(device)).sum(1)[None]

    def step(item: EncodedQuestion) -> tuple[torch.Tensor, int]:
        with torch.no_grad(), policy.disable_adapter():
            reference = logprobs(item)
        fed = len(item.ending_ids) * len(item.prompt_ids) + sum(map(len, item.ending_ids))
        return preference_loss(logprobs(item), reference, item), fed

    yield from optimised(policy, questions, step)


def packed_steps(model, tokenizer, questions, args, device, *, cached: bool) -> Iterator[tuple[float, int]]:
    """The packed pass; with `cached` the reference's log-probs were computed before the first step."""
    policy = use_onednn(make_policy(model, RANK, ALPHA, 0.0, checkpointing=False))
    scorer = PackedScorer(policy)

    @torch.no_grad()
    def reference_of(item: EncodedQuestion) -> torch.Tensor:
        with policy.disable_adapter():
            return scorer(pack([item]).to(device))

    known = {id(item): reference_of(item) for item in questions} if cached else {}

    def step(item: EncodedQuestion) -> tuple[torch.Tensor, int]:
        reference = known[id(item)] if cached else reference_of(item)
        return preference_loss(scorer(pack([item]).to(device)), reference, item), item.num_tokens

    yield from optimised(policy, questions, step)


def preference_loss(logprobs: torch.Tensor, reference: torch.Tensor, item: EncodedQuestion) -> torch.Tensor:
    rewards = torch.tensor([item.question.rewards], dtype=torch.float64, device=logprobs.device)
    mask = torch.ones_like(rewards, dtype=torch.bool)
    return sdpo(BETA * (logprobs - reference), mask, rewards, rewards.mean(1), LossOptions()).sum()


def optimised(policy: torch.nn.Module, questions: Sequence[EncodedQuestion], step: Step) -> Iterator[tuple[float, int]]:
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    policy.train()
    for item in questions:
        loss, tokens = step(item)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item(), tokens


SIDES = {
    "trl": trl_steps,
    "concatenated": concatenated_steps,
    "packed": lambda *context: packed_steps(*context, cached=False),
    "packed-cached": lambda *context: packed_steps(*context, cached=True),
}
TITLES = {
    "trl": "TRL DPOTrainer, 4 pairs a question",
    "concatenated": "S-DPO, 5 whole sequences, reference anew",
    "packed": "packed, reference anew",
    "packed-cached": "packed, reference cached",
}


def report(measured: dict[str, list[dict]], args: argparse.Namespace) -> None:
    print(f"\n{args.rounds} rounds, {args.precision}; {machine()}")
    [first, *_] = measured.values()
    rows = []
    for name, rounds in measured.items():
        seconds = [one["seconds"] for one in rounds]
        tokens = statistics.median(one["tokens"] / one["seconds"] for one in rounds)
        pairs = list(zip(first, rounds, strict=True))
        speed = statistics.median(base["seconds"] / one["seconds"] for base, one in pairs)
        memory = statistics.median(one["peak_memory_gb"] / base["peak_memory_gb"] for base, one in pairs)
        spread = [f"{value:.2f}" for value in (statistics.median(seconds), min(seconds), max(seconds))]
        peak = max(one["peak_memory_gb"] for one in rounds)
        figures = [f"{tokens:,.0f}", f"{peak:.2f}", f"{rounds[0]['loss']:.4f}", f"{speed:.1f}", f"{memory:.2f}"]
        rows.append([TITLES[name], *spread, *figures])
    header = ["side", "s a question", "lowest", "highest", "tokens/s", "peak GB", "loss"]
    print_table([*header, "times the first's speed", "its memory"], rows)
    write_json(args.json, {"precision": args.precision, "sides": measured})


if __name__ == "__main__":
    run_script(main)
