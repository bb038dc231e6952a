"""GGUF files: a model and its tokenizer in one, made into a model folder once and kept.

transformers reads the weights. Of their rotary embedding it reads the base alone, and not of every architecture: that
is set here, and a file that scales positions is refused. gguf_tokenizer.py builds the tokenizer.
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lib.checksums import check_sums, sha256_of_file, write_sums
from lib.errors import InputError
from lib.models import gguf_tokenizer
from lib.models.gguf_tokenizer import TOKENIZER_FILE, adopt_tokenizer, open_gguf, read_tokenizer
from lib.paths import CACHE_DIR, atomic_dir, source_sha256


def gguf_folder(file: Path) -> Path:
    """A model folder (safetensors, configuration, tokenizer) of the GGUF `file`; made on first use, then kept.

    Raises InputError where the file is broken or a part of one, its tokenizer of an unknown form, or that beside it
    another model's, and where its positions are scaled.
    """
    beside = file.with_name(TOKENIZER_FILE)
    key = source_sha256(__file__, gguf_tokenizer.__file__)[:8] + sha256_of_file(file)[:16]
    if beside.is_file():
        key += sha256_of_file(beside)[:16]
    folder = CACHE_DIR / "gguf" / f"{file.stem}-{key}"
    if not folder.exists():
        tokenizer = adopt_tokenizer(file, beside) if beside.is_file() else read_tokenizer(file)
        base, width = _read_rotary(file)
        print(f"{file.name}: converted into a model folder, once (half a minute for 135M weights)", flush=True)
        transformers_logging.disable_progress_bar()
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
            raise InputError(f"{file}: cannot read its weights ({' '.join(str(error).split())[:200]})") from None
        if info["missing_keys"]:  # transformers fills these with random numbers
            raise InputError(f"{file}: it lacks the weights {sorted(info['missing_keys'])[0]}; get a whole file")
        _set_rotary(file, model.config, base, width)
        complete(file, model)
        with atomic_dir(folder, shared=True) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            write_sums(temporary)
    check_sums(folder)
    return folder


def _read_rotary(file: Path) -> tuple[float | None, int | None]:
    """The base of the file's rotary embedding, and how many dimensions of a head it turns; None where it does not say.

    Raises InputError where transformers would leave out what scales its positions, or read a part of a split file.
    """
    reader = open_gguf(file)

    def field(name: str):
        return reader.fields[name].contents() if name in reader.fields else None

    architecture = field("general.architecture")
    if architecture is None:
        raise InputError(f"{file}: field general.architecture is missing; name a model folder instead")
    if (field("split.count") or 1) > 1:
        raise InputError(f"{file}: one of {field('split.count')} parts; join them with `llama-gguf-split --merge`")
    scaled = [one.name for one in reader.tensors if one.name.startswith("rope_f") and not (one.data == 1).all()]
    factors = {field(f"{architecture}.rope.{name}") for name in ("scaling.factor", "scale_linear")}
    # As llama.cpp, which takes a factor without a type for a linear one.
    kind = field(f"{architecture}.rope.scaling.type") or ("linear" if factors - {None, 0, 1} else None)
    if scaled or kind not in (None, "none"):
        by = (scaled or [kind])[0]
        raise InputError(f"{file}: its positions are scaled ({by}), which is not read from GGUF; name a model folder")
    return field(f"{architecture}.rope.freq_base"), field(f"{architecture}.rope.dimension_count")


def complete(file: Path, model: PreTrainedModel) -> None:
    """Set the sliding window, which transformers reads of some architectures alone. Raises InputError for biases that
    it has left out."""
    reader = open_gguf(file)
    of_file = sum(one.name.endswith(".bias") for one in reader.tensors)
    if of_file > sum(name.endswith(".bias") for name in model.state_dict()):
        raise InputError(f"{file}: has biases that are not read from GGUF for its architecture; name a model folder")
    [window] = [
        one.contents() for name, one in reader.fields.items() if name.endswith(".attention.sliding_window")
    ] or [0]
    if window and getattr(model.config, "sliding_window", None) is None:
        model.config.sliding_window = window


def _set_rotary(file: Path, config: PretrainedConfig, base: float | None, width: int | None) -> None:
    if base is not None and hasattr(config, "rope_theta"):
        config.rope_theta = base
    if width is None:
        return
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turned = int(head * getattr(config, "partial_rotary_factor", 1.0))
    if width != turned:
        raise InputError(
            f"{file}: positions turn {width} of a head's {head} dimensions, {turned} as read; name a model folder"
        )
