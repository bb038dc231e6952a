"""Reference log-probs: the policy with its adapter switched off, or before its first step; computed once and kept on
disk."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import peft
import torch
import transformers
from accelerate import Accelerator
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lib.packed.inference import score_questions
from lib.packed.scoring import PackedScorer
from lib.paths import CACHE_DIR, atomic_file, source_sha256
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
    The key covers the weights, the model's configuration (its rotary base is no weight), the packed ids, the precision,
    the batches (in bf16 a log-prob moves with what is packed beside it), the libraries and this wing's own code, so a
    stale cache is never used.
    """
    layout = [precision, accelerator.device.type, batch_size, scorer.causal_lm.config.to_json_string()]
    layout += [torch.__version__, transformers.__version__, peft.__version__]
    layout.append(source_sha256(*sorted(map(str, Path(__file__).parent.glob("*.py")))))
    path = CACHE_DIR / "reference" / f"{cache_key(weights_sha256, encoded, layout)}.safetensors"
    counts = [len(item.ending_ids) for item in encoded]
    try:
        flat = load_file(path)["logprobs"]
        cached = flat.shape == (sum(counts),)
    except (OSError, SafetensorError, KeyError):
        cached = False  # absent or cut short: compute it again
    if cached:
        return [values.tolist() for values in flat.split(counts)]
    model = scorer.model
    with model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
        logprobs = score_questions(scorer, encoded, accelerator, description="reference", batch_size=batch_size)
    if accelerator.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            save_file({"logprobs": torch.tensor([value for row in logprobs for value in row])}, temporary)
    return logprobs


def cache_key(weights_sha256: str, encoded: Sequence[EncodedQuestion], layout: list) -> str:
    """SHA-256 over all that reference log-probs depend on."""
    digest = hashlib.sha256(json.dumps([weights_sha256, layout]).encode())
    for item in encoded:
        digest.update(json.dumps([item.prompt_ids, item.ending_ids]).encode())
    return digest.hexdigest()
