"""The cached reference: computed once, by one process, kept where it can be, found again where nothing changed that it
depends on, and computed anew where something did."""

import threading

import peft
import pytest
import torch
import transformers
from conftest import rows, tiny_model

from lib.packed import reference
from lib.packed.inference import start_accelerator
from lib.packed.pack import pack
from lib.packed.reference import reference_logprobs
from lib.packed.scoring import PackedScorer
from lib.paths import lock


@pytest.fixture
def compute(encode, tmp_path, monkeypatch):
    """Log-probs of three questions, with the cache in `folder`."""
    encoded, scorer, accelerator = encode(rows(3)), PackedScorer(tiny_model()), start_accelerator("fp32")

    def compute(folder):
        monkeypatch.setattr(reference, "CACHE_DIR", tmp_path / folder)
        return reference_logprobs(scorer, encoded, accelerator, "weights", "fp32")

    return compute


def test_what_another_run_computes_now_is_waited_for_and_taken(compute, tmp_path, monkeypatch, capsys):
    expected = compute("cache")
    [entry] = (tmp_path / "cache" / "reference").iterdir()
    (tmp_path / "later").mkdir()
    later = tmp_path / "later" / "reference" / entry.name
    later.parent.mkdir()
    other = lock(later.with_suffix(".lock"))
    monkeypatch.setattr(reference, "score_questions", None)

    def finish():
        later.write_bytes(entry.read_bytes())
        other.close()

    threading.Timer(0.2, finish).start()
    assert compute("later") == expected
    assert "another process computes the same; waiting for it" in capsys.readouterr().out
    assert list(later.parent.iterdir()) == [later]


def test_a_cache_that_cannot_be_written_is_a_warning(compute, tmp_path, capsys):
    (tmp_path / "read-only").touch()  # below a file, nothing can be made
    assert compute("read-only") == compute("cache")
    assert capsys.readouterr().out.startswith(f"warning: {tmp_path}/read-only/reference: cannot be written (")


def test_a_full_disk_is_a_warning_too(compute, monkeypatch, tmp_path, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reference, "save_file", full)
    assert len(compute("cache")) == 3
    assert "reference: cannot be written (No space left on device); nothing is kept" in capsys.readouterr().out
    assert list((tmp_path / "cache" / "reference").iterdir()) == []


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
    assert {"kernels.cpp", "kernels.h"} <= names
