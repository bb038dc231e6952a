"""A model to evaluate, whatever it is kept as: a run, a model folder or a hub name in PyTorch, or an exported graph in
onnxruntime. All are asked the same packed questions."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from peft import PeftModel
from torch import nn

from lib.errors import InputError
from lib.evaluation.scores import Scored
from lib.models.loading import DTYPES, load_model, weights_sha256
from lib.models.runs import trained_on
from lib.packed.inference import Logprobs, score_questions
from lib.packed.neutral import neutral_logprobs
from lib.packed.onednn_layers import use_onednn
from lib.packed.precision import is_four_bit
from lib.packed.reference import reference_logprobs
from lib.packed.scoring import PackedScorer
from lib.packed.selfcheck import check_family, check_packed_pass
from lib.questions.prompt import EncodedQuestion
from lib.questions.prompt_config import PromptConfig


class ModelScorer:
    """tokenizer, and `prompt`: the contract the model was trained or exported with, None for a plain base model.
    `trained_on`: SHA-256 of the data that it was trained on, as far as its own record says."""

    def __init__(
        self,
        source: str,
        accelerator: Accelerator,
        precision: str,
        batch_size: int | None = None,
        base: str | None = None,
    ):
        """batch_size: questions at once, None for as many as the device takes. base: the model that a run was trained
        on, where it no longer lies where it did.

        Raises InputError, in one line, for whatever cannot be found, read, or scored."""
        self.accelerator, self.precision, self.batch_size, self.base = accelerator, precision, batch_size, base
        self.source, self.causal_lm, self.training, self.max_positions = source, None, {}, None
        self.is_checked = False
        if source.endswith(".onnx"):
            # Imported only here: training machines may lack onnxruntime.
            from lib.export.files import contract_in, positions_in
            from lib.export.session import open_export

            self.scorer, self.tokenizer, metadata = open_export(Path(source))
            self.prompt, self.max_positions = contract_in(metadata), positions_in(metadata)
            self.trained_on = trained_on(json.loads(metadata["training"]))
        else:
            loaded = load_model(source, DTYPES[precision], base=base)
            self.tokenizer, self.prompt, self.training = loaded.tokenizer, loaded.prompt, loaded.training
            self.causal_lm, self.trained_on = loaded.model, loaded.trained_on
            self.scorer = self._prepare(loaded.model)
        if base and not self.has_reference:
            raise InputError(f"--base {base}: {source} is no run, so it has no base; leave the flag out")

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
        prompt: PromptConfig,
        *,
        neutral: bool,
        reference: bool,
        per_token: bool,
        description: str,
    ) -> Scored:
        """Every log-prob that is asked for, each question, encoded by `prompt`, read once under each model."""
        if self.causal_lm is not None:
            check_family(self.causal_lm, prompt.max_length)
            if not self.is_checked:
                check_packed_pass(self.accelerator.unwrap_model(self.scorer), encoded, self.accelerator.device)
                self.is_checked = True
        elif self.max_positions and self.max_positions < prompt.max_length:
            raise InputError(
                f"{self.source}: is the model up to {self.max_positions} positions, fewer than the contract's "
                f"max_length, {prompt.max_length}; name another --contract"
            )
        base = self._reference_scorer() if reference else None  # what it may refuse is refused first
        values = self._score(encoded, description, per_token)
        tokens = values if per_token else None
        return Scored(
            encoded,
            logprobs=[[math.fsum(ending) for ending in row] for row in values] if per_token else values,
            neutral=self._neutral(encoded, prompt) if neutral else None,
            reference=self._reference(base, encoded) if reference else None,
            token_logprobs=tokens,
            contract=prompt.digest,
        )

    def _score(self, encoded: Sequence[EncodedQuestion], description: str, per_token: bool = False) -> list[list]:
        return score_questions(
            self.scorer,
            encoded,
            self.accelerator,
            description=description,
            batch_size=self.batch_size,
            per_token=per_token,
        )

    def _neutral(self, encoded: Sequence[EncodedQuestion], prompt: PromptConfig) -> Logprobs:
        return neutral_logprobs(encoded, self.tokenizer, prompt, lambda rows: self._score(rows, "neutral prompt"))

    def _reference_scorer(self) -> nn.Module:
        if not self.has_reference:
            raise InputError(
                "--score reward: the model is no run, so it has no reference to compare with; name a run with --model"
            )
        scorer = self.scorer if isinstance(self.causal_lm, PeftModel) else self._prepare(self._base())
        return self.accelerator.unwrap_model(scorer)

    def _reference(self, scorer: nn.Module, encoded: Sequence[EncodedQuestion]) -> Logprobs:
        base = scorer.causal_lm
        sha256 = self.training["base_sha256"] if is_four_bit(base) else weights_sha256(base)
        return reference_logprobs(scorer, encoded, self.accelerator, sha256, self.precision, self.batch_size)

    def _base(self) -> nn.Module:
        """The model that a run without an adapter started from, in fp32 as the run's own weights are."""
        source = self.base or self.training["base_model"]
        try:
            base = load_model(source, DTYPES["fp32"], merge=True).model
        except InputError as error:
            raise InputError(f"the reference: {error}; if it has moved, name it with --base") from None
        if weights_sha256(base) != self.training["base_sha256"]:
            raise InputError(
                f"{source}: not the weights that the run started from; the reward needs those: name them with --base"
            )
        return base
