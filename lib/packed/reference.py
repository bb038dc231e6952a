"""Reference log-probs: the policy with its adapter switched off, or before its first step; computed once and kept on
disk."""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import peft
import torch
import transformers
from accelerate import Accelerator
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib.packed.cache import cache_entry
from lib.packed.inference import score_questions
from lib.packed.precision import is_four_bit
from lib.packed.scoring import PackedScorer
from lib.paths import CACHE_DIR, atomic_file, source_sha256, warn_not_kept
from lib.questions.prompt import EncodedQuestion


def reference_logprobs(
    scorer: PackedScorer,
    encoded: Sequence[EncodedQuestion],
    accelerator: Accelerator,
    weights_sha256: str,
    precision: str,
    batch_size: int | None = None,
) -> list[list[float]]:
    """Reference log-probs of all candidates of every question, from the cache where the same were computed before.

    A scorer without an adapter must still hold the reference's weights, those of `weights_sha256`.
    The key covers the weights, the model's configuration (its rotary base is no weight, nor is that it has 4 bits), the
    packed ids, the precision, the batches (in bf16 a log-prob moves with what is packed beside it), the libraries and
    this wing's own code, so a stale cache is never used.
    """
    layout = [precision, accelerator.device.type, batch_size, scorer.causal_lm.config.to_json_string()]
    layout += [torch.__version__, transformers.__version__, peft.__version__]
    if is_four_bit(scorer.causal_lm):
        layout.append(importlib.metadata.version("bitsandbytes"))
    code = [str(path) for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".cpp", ".h")]
    layout.append(source_sha256(*sorted(code)))
    path = CACHE_DIR / "reference" / f"{cache_key(weights_sha256, encoded, layout)}.safetensors"
    counts = [len(item.ending_ids) for item in encoded]
    with cache_entry(path, lambda: _read(path, counts), lambda known: known is not None, accelerator) as entry:
        logprobs, writable = entry
        if logprobs is None:
            logprobs = _compute(scorer, encoded, accelerator, batch_size)
            if writable:
                _keep(path, logprobs)
    return logprobs


def _read(path: Path, counts: Sequence[int]) -> list[list[float]] | None:
    """The log-probs kept in `path`, `counts` of them a question; None where it is absent, cut short or damaged."""
    try:
        with safe_open(path, "pt") as file:
            flat, sha256 = file.get_tensor("logprobs"), (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    whole = flat.shape == (sum(counts),) and sha256 == _sha256(flat)
    return [values.tolist() for values in flat.split(counts)] if whole else None


def _sha256(flat: torch.Tensor) -> str:
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def _keep(path: Path, logprobs: list[list[float]]) -> None:
    flat = torch.tensor([value for row in logprobs for value in row])
    try:
        with atomic_file(path) as temporary:
            save_file({"logprobs": flat}, temporary, {"sha256": _sha256(flat)})
    except (OSError, SafetensorError) as error:
        warn_not_kept(path, error)


def _compute(
    scorer: PackedScorer, encoded: Sequence[EncodedQuestion], accelerator: Accelerator, batch_size: int | None
) -> list[list[float]]:
    model = scorer.model
    with model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
        return score_questions(scorer, encoded, accelerator, description="reference", batch_size=batch_size)


def cache_key(weights_sha256: str, encoded: Sequence[EncodedQuestion], layout: list) -> str:
    """SHA-256 over all that reference log-probs depend on."""
    digest = hashlib.sha256(json.dumps([weights_sha256, layout]).encode())
    for item in encoded:
        digest.update(json.dumps([item.prompt_ids, item.ending_ids]).encode())
    return digest.hexdigest()
