"""The reference's log-probs: computed once, by one process, and kept where they can be."""

import threading

import pytest
from conftest import rows, tiny_model

import lib.packed.reference
from lib.packed.inference import start_accelerator
from lib.packed.reference import reference_logprobs
from lib.packed.scoring import PackedScorer
from lib.paths import lock


@pytest.fixture
def compute(encode, tmp_path, monkeypatch):
    """Log-probs of three questions, with the cache in `folder`."""
    encoded, scorer, accelerator = encode(rows(3)), PackedScorer(tiny_model()), start_accelerator("fp32")

    def compute(folder):
        monkeypatch.setattr(lib.packed.reference, "CACHE_DIR", tmp_path / folder)
        return reference_logprobs(scorer, encoded, accelerator, "weights", "fp32")

    return compute


def test_what_another_run_computes_now_is_waited_for_and_taken(compute, tmp_path, monkeypatch, capsys):
    expected = compute("cache")
    [entry] = (tmp_path / "cache" / "reference").iterdir()
    (tmp_path / "later").mkdir()
    later = tmp_path / "later" / "reference" / entry.name
    later.parent.mkdir()
    other = lock(later.with_suffix(".lock"))
    monkeypatch.setattr(lib.packed.reference, "score_questions", None)

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

    monkeypatch.setattr(lib.packed.reference, "save_file", full)
    assert len(compute("cache")) == 3
    assert "reference: cannot be written (No space left on device); nothing is kept" in capsys.readouterr().out
    assert list((tmp_path / "cache" / "reference").iterdir()) == []
