"""The ways of scoring that `scoring_speed.py` compares. Each takes questions and gives its seconds and log-probs."""

import copy
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PretrainedConfig

import flops
import llama
from lib.errors import InputError
from lib.export.attention import BLOCKS
from lib.export.files import read_metadata
from lib.export.session import onnx_scorer
from lib.models.loading import load_model, make_policy
from lib.packed.attention import FEWEST_BLOCKS
from lib.packed.onednn import applies
from lib.packed.onednn_layers import use_onednn
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer
from lib.paths import ROOT
from lib.questions.data import STRIP, load_split
from lib.questions.prompt import EncodedQuestion, encode_questions, ending_text
from lib.questions.prompt_config import default_contract
from lib.training.losses import LossOptions, sdpo
from timing import stopwatch

SCORER = ROOT / "cpp_scorer" / "score"

Questions = Sequence[EncodedQuestion]
Logprobs = list[list[float]]


@dataclass
class Side:
    """One way of scoring. `score` gives its own seconds where it knows better than a clock around it, else None, and
    log-probs where it has the same ones as the others. gflop: the matrix products' work for a question, in 1e9
    operations. exact: its log-probs are to equal the first side's. device: what works, and whose clock is read."""

    name: str
    score: Callable[[Questions], tuple[float | None, Logprobs | None]]
    gflop: Callable[[EncodedQuestion], float]
    exact: bool = True
    device: torch.device = torch.device("cpu")
    seconds: list[float] = field(default_factory=list)  # a question, for each round
    gflop_per_second: list[float] = field(default_factory=list)

    def run(self, questions: Questions, counted: bool) -> Logprobs | None:
        """Score `questions`, and note the time a question and the rate where they are `counted`."""
        stop = stopwatch(self.device)
        seconds, logprobs = self.score(questions)
        elapsed = stop() if seconds is None else seconds
        if counted:
            self.seconds.append(elapsed / len(questions))
            self.gflop_per_second.append(sum(map(self.gflop, questions)) / elapsed)
        return logprobs


def test_questions(model: str, data: str, limit: int) -> tuple[PretrainedConfig, list[EncodedQuestion]]:
    """The configuration of a run or model folder, and test questions under its prompt, or under the data's own."""
    split, loaded = load_split(data, "test", limit=limit), load_model(model, torch.float32)
    prompt = loaded.prompt or default_contract(split.default_template, loaded.tokenizer)
    return loaded.model.config, encode_questions(split.questions, loaded.tokenizer, prompt)


def one_by_one(score_one: Callable[[EncodedQuestion], list[float]]) -> Callable:
    @torch.inference_mode()
    def score(questions: Questions) -> tuple[None, Logprobs]:
        return None, [score_one(item) for item in questions]

    return score


def hugging_face(model: torch.nn.Module) -> Side:
    """Each question's candidates as rows of one padded batch, prompt and all, with all logits."""

    def score_one(item: EncodedQuestion) -> list[float]:
        rows = [torch.tensor([*item.prompt_ids, *ids]) for ids in item.ending_ids]
        input_ids, attention_mask = padded(rows, model.device)
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        logprobs = token_logprobs(logits[:, :-1], input_ids[:, 1:])
        begin = len(item.prompt_ids) - 1
        return [one[begin : len(row) - 1].sum().item() for one, row in zip(logprobs, rows, strict=True)]

    return Side(
        "Hugging Face, one padded batch",
        one_by_one(score_one),
        lambda item: padded_gflop(model, item),
        device=model.device,
    )


def hugging_face_cached(model: torch.nn.Module) -> Side:
    """The prompt read once, its keys and values repeated for the candidates: a prefix cache in a few lines."""

    def score_one(item: EncodedQuestion) -> list[float]:
        prompt = torch.tensor([item.prompt_ids], device=model.device)
        cache = DynamicCache()
        first = model(input_ids=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        cache.batch_repeat_interleave(len(item.ending_ids))
        rows = [torch.tensor(ids) for ids in item.ending_ids]
        endings, fed = padded(rows, model.device)
        seen = torch.cat([fed.new_ones(len(rows), prompt.shape[1]), fed[:, :-1]], 1)
        logits = model(input_ids=endings[:, :-1], attention_mask=seen, past_key_values=cache, use_cache=True).logits
        logprobs = token_logprobs(torch.cat([first.expand(len(rows), -1, -1), logits], 1), endings)
        return (logprobs * fed).sum(1).tolist()

    def gflop(item: EncodedQuestion) -> float:
        prompt, longest = len(item.prompt_ids), max(map(len, item.ending_ids)) - 1
        whole, prompt_alone = (
            flops.forward_gflop(model.config, *lengths) for lengths in ((prompt + longest, longest), (prompt, 0))
        )
        first = flops.forward_gflop(model.config, prompt, 1)
        return first + len(item.ending_ids) * (whole - prompt_alone)

    return Side("Hugging Face, prompt's keys and values reused", one_by_one(score_one), gflop, device=model.device)


def padded(rows: list[torch.Tensor], device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids as one batch [B, L], and a mask of the same shape: 1 where there is a token."""
    input_ids = pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return input_ids.to(device), (torch.arange(input_ids.shape[1]) < lengths[:, None]).long().to(device)


def token_logprobs(logits: torch.Tensor, target_ids: torch.Tensor) -> torch.Tensor:
    return logits.float().log_softmax(-1).gather(2, target_ids[:, :, None]).squeeze(2)


def padded_gflop(model: torch.nn.Module, item: EncodedQuestion) -> float:
    length = len(item.prompt_ids) + max(map(len, item.ending_ids))
    return len(item.ending_ids) * flops.forward_gflop(model.config, length, length)


def lm_eval(model: torch.nn.Module, tokenizer) -> Side:
    """lm-evaluation-harness on the same model object, a question's candidates as one batch."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=5)

    def score(questions: Questions) -> tuple[None, None]:
        pairs = [
            (item.question.fields["context"].rstrip(STRIP), ending_text(ending))
            for item in questions
            for ending in item.question.endings
        ]
        requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
        harness.loglikelihood(requests, disable_tqdm=True)
        return None, None  # without the end token, so not the other sides' log-probs

    return Side("lm-evaluation-harness, batch of 5", score, lambda item: padded_gflop(model, item), device=model.device)


def llama_cpp(program: Path, gguf: Path, config) -> Side:
    """llama.cpp's own multiple-choice scoring, which shares the candidates' common beginning."""

    def score(questions: Questions) -> tuple[float, None]:
        return llama.scoring_seconds(program, gguf, questions), None

    def gflop(item: EncodedQuestion) -> float:
        return flops.forward_gflop(config, item.num_tokens, flops.num_scored(item))

    return Side(f"llama.cpp, {gguf.stem}", score, gflop)


def packed_pytorch(model: torch.nn.Module) -> Side:
    scorer = PackedScorer(use_onednn(copy.deepcopy(model)))
    score = one_by_one(lambda item: scorer(pack([item]).to(model.device))[0].tolist())
    return Side(
        "packed pass, PyTorch",
        score,
        lambda item: flops.packed_gflop(model.config, item, blocks(model)),
        device=model.device,
    )


def blocks(model: torch.nn.Module) -> int:
    """The blocks of queries that PyTorch's attention is computed in."""
    return FEWEST_BLOCKS if applies(next(model.parameters())) else 1


def onnx_python(path: Path, config) -> Side:
    run, quantization = onnx_scorer(path), read_metadata(path)["quantization"]
    score = one_by_one(lambda item: run(pack([item]))[0].tolist())
    name = f"onnxruntime in Python, {precision(quantization)}"
    return Side(name, score, lambda item: flops.packed_gflop(config, item, BLOCKS), exact=quantization == "none")


def cpp_scorer(path: Path, config, threads: int | None = None) -> Side:
    """The program, as a process that is fed a round's questions and answers them."""
    if not SCORER.exists():
        raise InputError(f"{SCORER}: not built; run `make scorer`")
    quantization = read_metadata(path)["quantization"]
    command = [SCORER, "--model", path, *(["--threads", str(threads)] if threads else [])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def score(questions: Questions) -> tuple[None, Logprobs]:
        for item in questions:
            row = {"context": item.question.fields["context"], "endings": item.question.endings}
            process.stdin.write(json.dumps(row).encode() + b"\n")
        process.stdin.flush()
        return None, [json.loads(process.stdout.readline())["logprobs"] for _ in questions]

    name = f"C++ scorer, {precision(quantization)}"
    return Side(name, score, lambda item: flops.packed_gflop(config, item, BLOCKS), exact=quantization == "none")


def precision(quantization: str) -> str:
    return "fp32" if quantization == "none" else quantization


def packed_training(model: torch.nn.Module) -> Side:
    """Forward and backward of S-DPO on all candidates, LoRA on all linear layers, the reference's log-probs given."""
    policy = PackedScorer(use_onednn(make_policy(copy.deepcopy(model), 8, 32, 0.0, checkpointing=False)))

    def score(questions: Questions) -> tuple[None, Logprobs]:
        policy.train()
        rows = []
        for item in questions:
            logprobs = policy(pack([item]).to(model.device))
            rewards = torch.zeros_like(logprobs, dtype=torch.float64)
            rewards[0, item.question.label] = 1
            scores, mask = 0.1 * (logprobs - logprobs.detach()), torch.ones_like(rewards, dtype=torch.bool)
            sdpo(scores, mask, rewards, rewards.mean(1), LossOptions()).sum().backward()
            policy.zero_grad(set_to_none=True)
            rows.append(logprobs[0].tolist())
        return None, rows

    return Side(
        "S-DPO step, PyTorch",
        score,
        lambda item: flops.training_gflop(model.config, item, blocks(model)),
        device=model.device,
    )
