"""A model to evaluate, whatever it is kept as: a run, a model folder or a hub name in PyTorch, or an exported graph in
onnxruntime. All are asked the same packed questions."""

import math
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from peft import PeftModel
from torch import nn

from lib.errors import InputError
from lib.evaluation.scores import Scored
from lib.models.loading import DTYPES, load_model, weights_sha256
from lib.packed.inference import Logprobs, score_questions
from lib.packed.onednn_layers import use_onednn
from lib.packed.reference import reference_logprobs
from lib.packed.scoring import PackedScorer
from lib.packed.selfcheck import check_family
from lib.questions.data import Question
from lib.questions.prompt import EncodedQuestion, neutral_prompt

NEUTRAL_TOKENS = 256  # of the endings that share one neutral prompt: rows of one length, so that padding costs little


class ModelScorer:
    """tokenizer, and `prompt`: the contract the model was trained or exported with, None for a plain base model."""

    def __init__(self, source: str, accelerator: Accelerator, precision: str, batch_size: int):
        """Raises InputError, in one line, for whatever cannot be found, read, or scored."""
        self.accelerator, self.precision, self.batch_size = accelerator, precision, batch_size
        self.causal_lm, self.training = None, {}
        if source.endswith(".onnx"):
            # Imported only here: training machines may lack onnxruntime.
            from lib.export.session import open_export

            self.scorer, self.tokenizer, self.prompt = open_export(Path(source))
        else:
            loaded = load_model(source, DTYPES[precision])
            self.tokenizer, self.prompt, self.training = loaded.tokenizer, loaded.prompt, loaded.training
            self.causal_lm = loaded.model
            self.scorer = self._prepare(loaded.model)

    def _prepare(self, causal_lm: nn.Module) -> nn.Module:
        return self.accelerator.prepare_model(PackedScorer(use_onednn(causal_lm)), evaluation_mode=True)

    @property
    def has_reference(self) -> bool:
        """Whether this is a run: with its adapter switched off it is its own reference; without one it names it."""
        full = self.causal_lm is not None and self.training.get("settings", {}).get("lora_r") == 0
        return full or isinstance(self.causal_lm, PeftModel)

    def score(
        self,
        encoded: Sequence[EncodedQuestion],
        template: str,
        *,
        neutral: bool,
        reference: bool,
        per_token: bool,
        description: str,
    ) -> Scored:
        """Every log-prob that is asked for, each question read once under each model."""
        if self.causal_lm is not None:
            check_family(self.causal_lm, max(item.num_tokens for item in encoded))
        values = self._score(encoded, description, per_token)
        tokens = values if per_token else None
        return Scored(
            encoded,
            logprobs=[[math.fsum(ending) for ending in row] for row in values] if per_token else values,
            neutral=self._neutral(encoded, template) if neutral else None,
            reference=self._reference(encoded) if reference else None,
            token_logprobs=tokens,
        )

    def _score(self, encoded: Sequence[EncodedQuestion], description: str, per_token: bool = False) -> list[list]:
        return score_questions(
            self.scorer,
            encoded,
            self.accelerator,
            batch_size=self.batch_size,
            description=description,
            per_token=per_token,
        )

    def _neutral(self, encoded: Sequence[EncodedQuestion], template: str) -> Logprobs:
        """Log-probs after the neutral prompt. It is the same for every question, so each ending is read once however
        often it occurs, and as many as fit share a row."""
        text = neutral_prompt(template)
        prompt_ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        distinct = sorted({tuple(ids) for item in encoded for ids in item.ending_ids}, key=lambda ids: (len(ids), ids))
        nobody = Question("", {}, (), (), 0, f"neutral prompt {text!r}")
        groups: list[list[list[int]]] = [[]]
        for ids in distinct:
            if groups[-1] and sum(map(len, groups[-1])) + len(ids) > NEUTRAL_TOKENS:
                groups.append([])
            groups[-1].append(list(ids))
        rows = [EncodedQuestion(nobody, prompt_ids, group, 0, False) for group in groups]
        values = [value for row in self._score(rows, "neutral prompt") for value in row]
        of = dict(zip(distinct, values, strict=True))
        return [[of[tuple(ids)] for ids in item.ending_ids] for item in encoded]

    def _reference(self, encoded: Sequence[EncodedQuestion]) -> Logprobs:
        if not self.has_reference:
            raise InputError(
                "--score reward: the model is no run, so it has no reference to compare with; name a run with --model"
            )
        scorer = self.scorer if isinstance(self.causal_lm, PeftModel) else self._prepare(self._base())
        scorer = self.accelerator.unwrap_model(scorer)
        sha256 = weights_sha256(scorer.causal_lm)
        return reference_logprobs(scorer, encoded, self.accelerator, weights_sha256=sha256, precision=self.precision)

    def _base(self) -> nn.Module:
        """The model that a run without an adapter started from."""
        source = self.training["base_model"]
        base = load_model(source, DTYPES["fp32"], merge=True).model
        if weights_sha256(base) != self.training["base_sha256"]:
            raise InputError(f"{source}: no longer the weights that the run started from; the reward needs them")
        return base.to(DTYPES[self.precision])
