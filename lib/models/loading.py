"""Loading: a run, a merged or base model folder, or a hub name, wherever a model is asked for. Safetensors only."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lib.checksums import check_sums
from lib.errors import InputError, first_line
from lib.models.adapters import ADAPTER_WEIGHTS, check_adapter
from lib.models.device import has_bf16_products
from lib.models.four_bit import four_bit_config, use_one_product
from lib.models.runs import RUN_FILE, read_run, trained_on
from lib.models.sources import ADAPTER_CONFIG, recorded_name, resolve
from lib.packed.dropout import without_dropout
from lib.packed.positions import keep_tables
from lib.packed.precision import cast_parameters
from lib.questions.prompt_config import PROMPT_FILE, PromptConfig

LORA_TARGETS = "all-linear"
BASE_FLAG = "--base (of eval_mc.py and export.py)"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def pick_precision(precision: str) -> str:
    """ "auto" is bf16 on a GPU whose own products have it, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if torch.cuda.is_available() and has_bf16_products(torch.device("cuda")) else "fp32"


@dataclass
class LoadedModel:
    """model: a causal LM, wrapped by PEFT where `source` is a run. `prompt` is None for a plain base model. `training`
    is the record of its run, {} without one; `trained_on` holds the SHA-256 of the training data of that run and of
    those it started from; `whole_sha256` is `weights_sha256` of a base in 4 bits before it had so few."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    source: str
    prompt: PromptConfig | None = None
    training: dict = field(default_factory=dict)
    trained_on: frozenset[str] = frozenset()
    whole_sha256: str | None = None

    @cached_property
    def weights_sha256(self) -> str:
        """`weights_sha256` of the model as it was when first asked for: before any step."""
        return self.whole_sha256 or weights_sha256(self.model)


def load_model(
    source: str, dtype: torch.dtype, *, merge: bool = False, base: str | None = None, four_bit: bool = False
) -> LoadedModel:
    """Load `source`. A run comes as base + adapter, or with `merge` as one model, merged in fp32. Without `merge`, a
    run whose every weight was trained comes in fp32 whatever `dtype`, as it was trained: its steps are too small for
    weights in bf16, and autocast makes the products what they were. `base` names the model that an adapter was trained
    on where it no longer lies where it did. `four_bit`: a base model's layers in 4 bits; a run that was trained so
    comes so without being asked, and with `merge` is merged into the whole base.

    Raises InputError, in one line, for whatever cannot be found, read, or scored, and where the base of an adapter
    holds other weights than it was trained on.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    location = resolve(source)
    folder = Path(location) if Path(location).is_dir() else None
    if folder:
        check_sums(folder)
    training = read_run(folder) if folder and (folder / RUN_FILE).exists() else {}
    training = training if "finished" in training else {}  # else it is another program's file of that name
    seen, whole_sha256, below = trained_on(training), None, None
    if folder and (folder / ADAPTER_CONFIG).exists():
        if four_bit:
            raise InputError(f"{source}: no adapter is merged into 4 bits; merge it first: export.py --merged-dir")
        model, below = _load_run(folder, dtype, merge, base, training)
        seen |= below.trained_on
    elif four_bit:
        whole_sha256 = weights_sha256(_load_base(location, dtype))
        model = _load_base(location, dtype, four_bit=True)
    else:
        every_weight = training.get("settings", {}).get("lora_r") == 0
        model = _load_base(location, torch.float32 if every_weight and not merge else dtype)
    model.name_or_path = recorded_name(source)  # what a new adapter records as its base
    prompt = PromptConfig.load(folder) if folder and (folder / PROMPT_FILE).exists() else None
    bare = below and not list(folder.glob("tokenizer*"))  # an adapter as PEFT leaves it
    tokenizer = below.tokenizer if bare else load_tokenizer(location)
    return LoadedModel(model.eval(), tokenizer, source, prompt, training, seen, whole_sha256)


def load_tokenizer(location: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a model folder or hub name; it must have an end-of-text token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
    except Exception as error:  # of a broken tokenizer.json the library raises nothing more precise
        raise InputError(f"{location}: no usable tokenizer ({first_line(error)})") from None
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise InputError(f"{location}: the tokenizer needs a tokenizer.json and an end-of-text token")
    # Rows are bounded by --max-length; the tokenizer's own limit would only warn about the uncut text.
    tokenizer.model_max_length = int(1e9)
    return tokenizer


def _load_base(location: str, dtype: torch.dtype, *, four_bit: bool = False) -> PreTrainedModel:
    how = {"quantization_config": four_bit_config(dtype)} if four_bit else {}
    how |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(location, dtype=dtype, **how)
    except MemoryError:
        raise
    except Exception as error:  # what a broken configuration makes the libraries raise has nothing in common
        raise InputError(f"{location}: cannot load the model ({first_line(error)})") from None
    if info["missing_keys"]:
        # Transformers would fill these with random numbers and go on.
        raise InputError(f"{location}: the weights lack {sorted(info['missing_keys'])[0]}; the folder is incomplete")
    modules = {name for name, _ in model.named_modules()}
    if left_out := sorted(name for name in info["unexpected_keys"] if name.rpartition(".")[0] in modules):
        # Of a layer that is there, as a bias that the configuration denies; it would go on without.
        raise InputError(f"{location}: the configuration has no place for the weights {left_out[0]}; mend config.json")
    keep_tables(model)
    without_dropout(model)
    _can_be_saved(model)
    return use_one_product(model) if four_bit else model


def _can_be_saved(model: PreTrainedModel) -> None:
    """Settings of generation that transformers loads and then refuses to save, as early Llama 2 had, are left out."""
    try:
        if model.generation_config:
            model.generation_config.validate(strict=True)
    except ValueError:
        model.generation_config = GenerationConfig.from_model_config(model.config)


def _load_run(
    folder: Path, dtype: torch.dtype, merge: bool, base: str | None, training: dict
) -> tuple[nn.Module, LoadedModel]:
    """A run's model, and what it started from."""
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise InputError(f"{folder / ADAPTER_WEIGHTS}: missing; the adapter is read from safetensors only")
    try:
        recorded = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / ADAPTER_CONFIG}: broken ({error}); train again") from None
    if not base and (not isinstance(recorded, str) or Path(recorded).resolve() == folder.resolve()):
        raise InputError(f"{folder / ADAPTER_CONFIG}: base_model_name_or_path names no model; name it with {BASE_FLAG}")
    # Weights that the run had in fp32 are hashed in fp32, whatever they become then.
    trained_in = DTYPES[training.get("precision", "fp32")]
    exact = torch.float32 if merge or trained_in == torch.float32 else dtype
    try:
        # A run that started from a run names it as its base: its adapter is merged first.
        loaded = load_model(base or recorded, exact, merge=True)
    except InputError as error:
        advice = "" if base or BASE_FLAG in str(error) else f"; if it has moved, name it with {BASE_FLAG}"
        raise InputError(f"{folder}: its base: {error}{advice}") from None
    model = loaded.model
    if "base_sha256" in training and weights_sha256(model, trained_in) != training["base_sha256"]:
        raise InputError(
            f"{base or recorded}: not the weights that {folder} was trained on (base_sha256 of its {RUN_FILE} "
            f"differs); name those with {BASE_FLAG}, or train again"
        )
    if not merge and training.get("settings", {}).get("load_in_4bit"):
        loaded.model = model = None  # the whole base leaves memory first
        model = _load_base(resolve(base or recorded), dtype, four_bit=True)
    elif not merge:
        cast_parameters(model, dtype)
    try:
        model = PeftModel.from_pretrained(model, folder)
    except Exception as error:  # of a broken configuration too
        raise InputError(f"{folder}: the adapter does not fit {base or recorded} ({first_line(error)})") from None
    check_adapter(model, folder, merge=merge)
    if merge:
        model = model.merge_and_unload()
        cast_parameters(model, dtype)
    return model, loaded


def make_policy(model: PreTrainedModel, rank: int, alpha: int, dropout: float, *, checkpointing: bool) -> nn.Module:
    """The policy: `model` frozen, with a fresh LoRA adapter that changes nothing yet; with the adapter switched off it
    is the reference. Rank 0: `model` itself, every weight to be trained, the reference only until the first step."""
    policy = model
    if rank:
        config = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=LORA_TARGETS, task_type="CAUSAL_LM"
        )
        policy = get_peft_model(model, config)
    if checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return policy


def weights_sha256(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """SHA-256 over names, types and bytes of the base weights, the same with an adapter around them and without, with
    `dtype` of what they are once cast to it."""
    digest = hashlib.sha256()
    weights = {name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in sorted(weights.items()):
        if "lora_" not in name:
            tensor = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
