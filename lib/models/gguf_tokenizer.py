"""The tokenizer of a GGUF file, built from what its metadata say.

transformers keeps the vocabulary alone and guesses the rest (SmolLM2's digits stay together, Gemma's merges are lost),
so it is built here, from the names of its form that the metadata carry: `tokenizer.ggml.model` and
`tokenizer.ggml.pre`, as llama.cpp reads them (src/llama-vocab.cpp). A form that is not in `FORMS` is refused by its
name, unless the model's own tokenizer.json lies beside the file: that one is taken, where it names the file's tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lib.errors import InputError, first_line
from lib.pretraining.language_model import QWEN2_SPLIT

TOKENIZER_FILE = "tokenizer.json"
CONTROL, USER_DEFINED = 3, 4  # of `tokenizer.ggml.token_type`
LLAMA3 = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Words by `pattern`, then their bytes as characters."""
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_then_gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


@dataclass(frozen=True)
class Form:
    """pre_tokenizer: what cuts a text into words. in_nfc: whether it is brought into NFC first. like_llama: whether a
    word that is a token is taken whole, and texts open with the start token where the file does not say."""

    pre_tokenizer: Callable[[], pre_tokenizers.PreTokenizer]
    in_nfc: bool = False
    like_llama: bool = False


# By `tokenizer.ggml.pre`.
FORMS = {
    "gpt-2": Form(_gpt2),
    "smollm": Form(_digits_then_gpt2),
    "starcoder": Form(_digits_then_gpt2),
    "qwen2": Form(lambda: _split(QWEN2_SPLIT), in_nfc=True),
    "llama-bpe": Form(lambda: _split(LLAMA3), like_llama=True),
}


def open_gguf(file: Path):
    # Imported only here: it takes half a second, and nothing but these files needs it.
    from gguf import GGUFReader

    try:
        return GGUFReader(file)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise InputError(f"{file}: not a whole GGUF file ({' '.join(str(error).split())[:200]})") from None


def read_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that the file's metadata describe. Raises InputError where they lack something or name a form that
    is not known here."""
    metadata, value = _read_metadata(file)
    try:
        return _make_tokenizer(file, metadata, value)
    except InputError:
        raise
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"{file}: its tokenizer is broken ({first_line(error)}); get a whole file") from None


def _make_tokenizer(file: Path, metadata: dict, value: Callable) -> PreTrainedTokenizerFast:
    kind = value("model")
    name = value("pre") if kind == "gpt2" else None
    if name not in FORMS:
        named = f"tokenizer.ggml.pre '{name}'" if name else f"tokenizer.ggml.model '{kind}'"
        raise InputError(
            f"{file}: {named} is no form that is read from GGUF (known: gpt2 with {', '.join(FORMS)}); put "
            f"the model's own {TOKENIZER_FILE} beside the file, or name a model folder"
        )
    tokens, types = value("tokens"), value("token_type")
    merges = [tuple(merge.split(" ")) for merge in value("merges")]
    form, vocab = FORMS[name], {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=form.like_llama))
    tokenizer.normalizer = normalizers.NFC() if form.in_nfc else None
    tokenizer.pre_tokenizer = form.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    for kind, add in ((CONTROL, tokenizer.add_special_tokens), (USER_DEFINED, tokenizer.add_tokens)):
        own = [token for token, its_kind in zip(tokens, types, strict=True) if its_kind == kind]
        add([AddedToken(token, special=kind == CONTROL, normalized=False) for token in own])
    special = _special_tokens(metadata, value, opens=form.like_llama)
    if "bos_token" in special:
        start = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, value("bos_token_id"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def adopt_tokenizer(file: Path, tokenizer_file: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of `tokenizer_file`; raises InputError where a token of it has another id in the GGUF file."""
    metadata, value = _read_metadata(file)
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"{tokenizer_file}: not a tokenizer ({' '.join(str(error).split())[:200]})") from None
    tokens = value("tokens")
    for token, index in tokenizer.get_vocab().items():
        # Runs of spaces are written out in the file; a token past its end (of an image) has no weights either.
        if index < len(tokens) and tokens[index].replace(" ", "▁") != token.replace(" ", "▁"):
            raise InputError(
                f"{tokenizer_file}: token {index} is {token!r}, in {file.name} it is {tokens[index]!r}; it is not this "
                "model's tokenizer; replace it or move it away"
            )
    opens = tokenizer.encode("a").ids[:1] == [metadata.get("tokenizer.ggml.bos_token_id")]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_special_tokens(metadata, value, opens=opens))


def _special_tokens(metadata: dict, value: Callable, *, opens: bool) -> dict[str, str]:
    """The end token and, where texts are to open with it (`opens`: where the file does not say), the start token, by
    transformers' names for them."""
    tokens = value("tokens")
    special = {"eos_token": tokens[value("eos_token_id")]}
    if metadata.get("tokenizer.ggml.add_bos_token", opens):
        special["bos_token"] = tokens[value("bos_token_id")]
    return special


def _read_metadata(file: Path) -> tuple[dict, Callable]:
    """What the file says of its tokenizer, by name, and what gives a field of it or says that it is missing."""
    fields = open_gguf(file).fields
    metadata = {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}

    def value(name: str):
        if f"tokenizer.ggml.{name}" not in metadata:
            raise InputError(f"{file}: field tokenizer.ggml.{name} is missing; name a model folder instead")
        return metadata[f"tokenizer.ggml.{name}"]

    return metadata, value
