"""Negatives that the starting model writes: the text is its own, kept on disk, and joins without a trace elsewhere."""

import signal
from pathlib import Path

import pytest
import torch
from conftest import rows, tiny_model

import lib.training.generation
import lib.training.self_negatives
import train_sdpo
from lib.models.loading import LoadedModel
from lib.models.runs import read_metrics, read_run
from lib.packed.inference import start_accelerator
from lib.questions.prompt_config import PromptConfig
from lib.training.generation import EndingSampler, Generation, ending_of, stop_ids
from lib.training.negatives import training_questions
from lib.training.self_negatives import add_self_negatives, write_endings

PROMPT = PromptConfig("{context}")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(lib.training.self_negatives, "CACHE_DIR", tmp_path / "cache")
    return tmp_path / "cache" / "self_negatives"


@pytest.fixture
def write(tokenizer):
    model = tiny_model()

    def endings(encoded, *, count=2, seed=0, model=model):
        loaded = LoadedModel(model, tokenizer, "tiny")
        accelerator = start_accelerator("fp32")
        return write_endings(loaded, encoded, Generation(count, seed, PROMPT.end_token), accelerator)

    return endings


def test_batches_with_a_cache_write_what_the_model_would_alone(encode, write, tokenizer):
    """With logits so large that sampling is certain, against plain forwards of one row without padding or cache."""
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
    encoded = encode(rows(11), template="{context}")
    assert len({len(item.prompt_ids) for item in encoded}) > 2
    stops = stop_ids(tokenizer)
    expected = []
    for item in encoded:
        ids = list(item.prompt_ids)
        limit = len(ids) + max(map(len, item.ending_ids)) - 1
        while len(ids) < limit and (len(ids) == len(item.prompt_ids) or ids[-1] not in stops):
            with torch.no_grad():
                ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
        expected.append([ending_of(ids[len(item.prompt_ids) :], tokenizer)] * 2)
    assert write(encoded, model=model)[0] == expected


def test_an_ending_is_over_at_the_end_token_or_a_new_line(tokenizer):
    ids = tokenizer(" holding that\nmore")["input_ids"]
    assert ending_of(ids, tokenizer) == "holding that"
    assert ending_of([*tokenizer(" a b")["input_ids"], tokenizer.eos_token_id, *ids], tokenizer) == "a b"
    assert ending_of(tokenizer(" caf\u00e9")["input_ids"][:-1], tokenizer) == "caf"  # half a character is none
    new_lines = {token for token in stop_ids(tokenizer) if token != tokenizer.eos_token_id}
    assert new_lines == {token for text, token in tokenizer.get_vocab().items() if "\u010a" in text}


def test_text_is_kept_on_disk_and_reused(encode, write, cache, monkeypatch):
    encoded = encode(rows(5), template="{context}")
    first = write(encoded)
    [path] = cache.iterdir()
    monkeypatch.setattr(EndingSampler, "sample", None)
    assert write(encoded) == first
    monkeypatch.undo()
    monkeypatch.setattr(lib.training.self_negatives, "CACHE_DIR", cache.parent)
    path.write_text(path.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    assert write(encoded) == first  # cut short: written again, and the same
    assert write(encoded, seed=1)[0] != first[0] and write(encoded, seed=1)[1] != first[1]
    assert len(list(cache.iterdir())) == 2


def test_a_kill_costs_the_batch_at_hand_alone(encode, write, cache, monkeypatch):
    encoded = encode(rows(30), template="{context}")
    undisturbed = write(encoded)
    [path] = cache.iterdir()
    whole = path.read_bytes()
    path.unlink()
    sample, sampled = EndingSampler.sample, []

    def killed_at_the_third(self, number):
        if len(sampled) == 2:
            raise SystemError("killed")
        sampled.append(number)
        return sample(self, number)

    monkeypatch.setattr(EndingSampler, "sample", killed_at_the_third)
    with pytest.raises(SystemError):
        write(encoded)
    assert sampled == [0, 1] and whole.startswith(path.read_bytes()) and path.read_bytes().count(b"\n") == 2
    with path.open("ab") as file:
        file.write(b'{"batch": 2, "endi')
    monkeypatch.setattr(EndingSampler, "sample", lambda self, number: (sampled.append(number), sample(self, number))[1])
    assert write(encoded) == undisturbed and sampled == [0, 1, 2, 3]
    assert path.read_bytes() == whole


def test_what_str_splitlines_takes_for_the_end_of_a_line_is_none(encode, write, monkeypatch):
    monkeypatch.setattr(lib.training.generation, "ending_of", lambda *_: "one\u2028two\x85three\u2029")
    encoded = encode(rows(2), template="{context}")
    first = write(encoded)
    monkeypatch.setattr(EndingSampler, "sample", None)
    assert write(encoded) == first and first[0][0][0] == "one\u2028two\x85three\u2029"


def test_a_cache_that_cannot_be_written_is_a_warning(encode, write, tmp_path, monkeypatch, capsys):
    encoded = encode(rows(3), template="{context}")
    (tmp_path / "read-only").touch()  # below a file, nothing can be made
    monkeypatch.setattr(lib.training.self_negatives, "CACHE_DIR", tmp_path / "read-only")
    assert len(write(encoded)[0]) == 3
    assert capsys.readouterr().out.startswith(f"warning: {tmp_path}/read-only/self_negatives: cannot be written (")


def test_writing_leaves_the_random_state_and_the_model_as_they_were(encode, write):
    model = tiny_model()
    config, state = model.generation_config, torch.get_rng_state()
    write(encode(rows(3), template="{context}"), model=model)
    assert model.generation_config is config and torch.equal(torch.get_rng_state(), state)


def test_what_is_new_joins_with_the_lowest_reward_and_leaves_the_mean(encode, tokenizer):
    row = {"prompt": "p", "responses": ["aa bb cc dd", "b", "c", "d"], "scores": [5.0, 4.0, 3.0, 2.0]}
    encoded = encode([row], template="{prompt}")
    written = ["new", " b ", "", "new", "aa bb cc dd ee ff gg hh", "other"]
    [item], counts = add_self_negatives(encoded, [written], tokenizer, PromptConfig("{prompt}"))
    assert item.question.endings == ("aa bb cc dd", "b", "c", "d", "new", "other")
    assert item.question.rewards == (5.0, 4.0, 3.0, 2.0, 2.0, 2.0)
    assert counts == {
        "added": 2,
        "empty": 1,
        "equal to a given candidate or an earlier one": 2,
        "longer than every given candidate": 1,
    }
    [question], _ = training_questions([item])
    assert (question.mean, question.positives, question.negatives) == (3.5, (0, 1), (2, 3, 4, 5))


@pytest.mark.parametrize("max_length", [45, 512])
def test_max_length_bounds_the_prompt_and_the_longest_of_all(encode, write, tokenizer, max_length):
    prompt = PromptConfig("{context}", max_length)
    encoded = encode(rows(8), template="{context}", max_length=max_length)
    joined, counts = add_self_negatives(encoded, write(encoded, count=4)[0], tokenizer, prompt)
    assert counts["added"] > 8
    for before, after in zip(encoded, joined, strict=True):
        assert len(after.prompt_ids) + max(map(len, after.ending_ids)) <= max_length
        assert after.prompt_ids == before.prompt_ids and after.ending_ids[:5] == before.ending_ids
    assert any(item.truncated for item in joined) == (max_length == 45)


def test_training_draws_them_and_goes_on_after_a_stop_as_if_never_stopped(
    tmp_path, monkeypatch, model_folder, data_folder
):
    monkeypatch.chdir(tmp_path)
    flags = ["--model", str(model_folder), "--data", str(data_folder), "--batch-size", "3", "--epochs", "1"]
    flags += ["--self-negatives", "3", "--negatives", "hard", "--num-neg", "6"]
    assert train_sdpo.main([*flags, "--output", "whole"]) == 0
    assert set(read_run(Path("whole"))["data_sha256"]) == {"train", "validation", "self_negatives"}

    class AfterTwoSteps:
        calls = 0

        @property
        def signum(self):
            self.calls += 1
            return signal.SIGINT if self.calls == 2 else 0

    with monkeypatch.context() as patch:
        patch.setattr(train_sdpo, "StopRequest", AfterTwoSteps)
        assert train_sdpo.main([*flags, "--output", "parts"]) == 130
    assert train_sdpo.main(["--resume", "--output", "parts"]) == 0
    adapters = [(Path(run) / "adapter_model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert adapters[0] == adapters[1]
    first = read_metrics(Path("whole"))[0]["loss"]  # 4 given negatives and at least one of the model's own
    assert first > torch.tensor(5.0).log().item() + 0.1
