"""The cached reference: found again where nothing changed that it depends on, and computed anew where something did."""

import peft
import pytest
import torch
import transformers
from conftest import rows, tiny_model

from lib.packed import reference
from lib.packed.inference import start_accelerator
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer


@pytest.fixture
def computed(tmp_path, monkeypatch, encode):
    """Whether a call had to compute the reference: `computed(rope_theta=...)` of a model that is else the same."""
    accelerator, encoded, calls = start_accelerator("fp32"), encode(rows(2)), []
    compute = reference.score_questions
    monkeypatch.setattr(reference, "CACHE_DIR", tmp_path)
    monkeypatch.setattr(reference, "score_questions", lambda *args, **more: calls.append(1) or compute(*args, **more))

    def call(precision="fp32", weights="w", **changes) -> bool:
        before = len(calls)
        scorer = PackedScorer(tiny_model(**changes))
        found = reference.reference_logprobs(scorer, encoded, accelerator, weights, precision)
        with torch.no_grad():
            expected = [scorer(pack([item]))[0].tolist() for item in encoded]
        assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-3)
        return len(calls) > before

    assert call()
    return call


def test_it_is_kept(computed):
    assert not computed() and not computed()


def test_another_configuration_of_the_same_weights_is_another_reference(computed):
    assert computed(rope_theta=500.0)
    assert not computed(rope_theta=500.0)


def test_other_weights_or_another_precision_are(computed):
    assert computed(weights="v") and computed(precision="bf16")


@pytest.mark.parametrize("library", [torch, transformers, peft])
def test_another_library_is(computed, monkeypatch, library):
    monkeypatch.setattr(library, "__version__", "another")
    assert computed()


def test_other_code_is(computed, monkeypatch):
    """A mask that was wrong must not live on in what it gave."""
    given = []
    monkeypatch.setattr(reference, "source_sha256", lambda *files: given.extend(files) or "another")
    assert computed()
    names = {file.rsplit("/", 1)[1] for file in given}
    assert {"pack.py", "scoring.py", "scored_rows.py", "onednn_layers.py", "inference.py"} <= names
