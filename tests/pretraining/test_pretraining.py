"""Pretraining: rows and tokenizer, a run resumed to the last bit, and a model that the other scripts take."""

import copy
import json
import math
import os
import shutil
import signal
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from conftest import CASEHOLD, OBJECTS, ROOT, SUBJECTS, VERBS, needs_casehold, rows, run_python, tiny_model, write_jsonl
from tokenizers import processors
from torch.nn.functional import cross_entropy

import train_sdpo
from lib.checksums import SUMS_FILE, write_sums
from lib.errors import InputError
from lib.mining.holdings import filled_passages
from lib.models.curve import plot_pretraining
from lib.models.loading import load_model
from lib.models.runs import read_metrics, read_run
from lib.pretraining import throughput
from lib.pretraining.data import Rows, pack_rows, prepare
from lib.pretraining.language_model import SIZES, Pretraining, new_model

sys.path.insert(0, str(ROOT / "tools"))
import pretrain_lm  # noqa: E402

FLAGS = ["--params", "5m", "--vocab", "320", "--row-length", "32", "--batch-size", "4", "--workers", "1"]
TIMINGS = {"tokens_per_second", "peak_memory_gb"}


def sentences(count: int) -> list[dict]:
    held = [f"{SUBJECTS[n % 8]} {VERBS[n // 8 % 6]} {OBJECTS[n // 3 % 6]}" for n in range(count)]
    return [{"text": f"We hold that {what}, for reason {n}. So ordered."} for n, what in enumerate(held)]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("text") / "opinions.jsonl", sentences(64))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "model"
    flags = ["--text", str(text), *FLAGS, "--epochs", "1", "--precision", "fp32", "--output", str(folder)]
    assert pretrain_lm.main(flags) == 0
    return folder


def values(folder: Path) -> list[dict]:
    lines = read_metrics(folder / "pretraining")
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def test_rows_are_the_documents_end_to_end(tokenizer):
    texts = ["the tenant may rescind.", "a minor must give notice of the lien."]
    packed = pack_rows(texts, tokenizer, 8)
    whole = tokenizer.encode("<|endoftext|>".join([*texts, ""]))
    assert packed.dtype == torch.int32 and packed.flatten().tolist() == whole[: len(whole) // 8 * 8]


def test_held_out_documents_are_trained_on_by_nothing():
    texts = [f"document {n:03d} says {'abc'[n % 3] * 20}" for n in range(100)]
    tokenizer, packed = prepare(texts, 300, 16, seed=3)
    held_out, train = (tokenizer.decode(part.flatten()) for part in (packed.held_out, packed.train))
    held = {text[:12] for text in texts if text[:12] in held_out}
    assert held and not any(text in train for text in held)
    assert packed.held_out_bytes == sum(
        len(tokenizer.decode(row[1:], skip_special_tokens=True).encode()) for row in packed.held_out
    )


def test_questions_are_read_with_the_gold_in_place(tmp_path):
    source = write_jsonl(tmp_path / "train.jsonl", rows(3))
    texts = filled_passages([source])
    for text, row in zip(texts, rows(3), strict=True):
        assert text == row["context"].replace("<HOLDING>", row["endings"][row["label"]])


@pytest.mark.parametrize("name, size", SIZES.items())
def test_sizes_are_what_they_are_called(name, size, tokenizer):
    with torch.device("meta"):
        model = new_model(tokenizer, num_attention_heads=size["hidden_size"] // 64, **size)
    count = model.num_parameters() + (8192 - len(tokenizer)) * size["hidden_size"]
    assert count == pytest.approx(float(name[:-1]) * 1e6, rel=0.06)


def test_the_loss_falls(finished):
    losses = [line["loss"] for line in values(finished) if "loss" in line]
    assert losses[0] == pytest.approx(math.log(320), rel=0.05)
    assert min(losses[-3:]) < 0.85 * losses[0]


def test_the_held_out_figures_are_those_of_the_saved_model(finished, text, monkeypatch):
    """Reckoned again from the folder, without the code under test."""
    monkeypatch.setattr(Rows, "load", None)
    loaded = load_model(str(finished), torch.float32)
    packed = prepare([row["text"] for row in sentences(64)], 320, 32, seed=0)[1].held_out.long()
    with torch.no_grad():
        logits = loaded.model(packed).logits[:, :-1]
    loss = cross_entropy(logits.flatten(0, 1), packed[:, 1:].flatten()).item()
    last = values(finished)[-1]
    assert last["held_out_loss"] == pytest.approx(loss, rel=1e-4)
    assert last["held_out_perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    decoded = loaded.tokenizer.batch_decode(packed[:, 1:], skip_special_tokens=True)
    num_bytes = sum(len(row.encode()) for row in decoded)
    assert last["bits_per_byte"] == pytest.approx(loss * packed[:, 1:].numel() / math.log(2) / num_bytes, rel=1e-4)


def test_the_folder_is_complete_and_tidy(finished):
    assert {path.name for path in finished.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "curve.png",
    }
    record = read_run(finished / "pretraining")
    assert record["finished"] and record["settings"]["vocab"] == 320 and record["result"]["share_of_peak"] > 0
    assert not [path for path in finished.rglob("*") if "incomplete" in path.name or "checkpoint" in path.name]
    assert not (finished / "pretraining" / "rows.safetensors").exists()


def test_stopped_and_resumed_equals_never_stopped(finished, tmp_path, text, monkeypatch):
    """Cut off without warning after a checkpoint, with a line of metrics half written."""
    folder, step = tmp_path / "model", Pretraining.step
    flags = ["--text", str(text), *FLAGS, "--epochs", "1", "--precision", "fp32", "--save-every", "3"]

    def cut_off(self, batches):
        if self.schedule.last_epoch == 5:
            raise SystemError("cut off")
        return step(self, batches)

    monkeypatch.setattr(Pretraining, "step", cut_off)
    with pytest.raises(SystemError):
        pretrain_lm.main([*flags, "--output", str(folder)])
    assert not (folder / "config.json").exists()
    with (folder / "pretraining" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    monkeypatch.setattr(Pretraining, "step", step)
    assert pretrain_lm.main(["--resume", "--output", str(folder)]) == 0
    assert (folder / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    assert values(folder) == values(finished)
    with pytest.raises(InputError, match="this model is finished"):
        pretrain_lm.main(["--resume", "--output", str(folder)])


def test_a_model_from_elsewhere_goes_on(finished, tmp_path, text, monkeypatch, capsys):
    """From its own weights and with its own tokenizer; stopped and resumed as never stopped; not from other weights."""
    base, step = shutil.copytree(finished, tmp_path / "base"), Pretraining.step
    tokenizer = load_model(str(base), torch.float32).tokenizer
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(base, save_jinja_files=False)
    write_sums(base, [path.name for path in base.iterdir() if path.is_file() and path.name != SUMS_FILE])
    sums = (base / SUMS_FILE).read_bytes()
    flags = ["--text", str(text), "--model", str(base), *FLAGS[4:], "--epochs", "1", "--precision", "fp32"]
    assert pretrain_lm.main([*flags, "--output", str(tmp_path / "whole")]) == 0
    before = values(finished)[-1]
    said = f"before the first step: held-out perplexity {before['held_out_perplexity']:.2f}"
    assert said in capsys.readouterr().out
    losses = [line["loss"] for line in values(tmp_path / "whole") if "loss" in line]
    assert losses[0] < min(line["loss"] for line in values(finished) if "loss" in line) * 1.1
    assert values(tmp_path / "whole")[-1]["held_out_loss"] < before["held_out_loss"]
    whole = load_model(str(tmp_path / "whole"), torch.float32)
    assert whole.tokenizer.chat_template == tokenizer.chat_template
    assert whole.tokenizer.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    record = read_run(tmp_path / "whole" / "pretraining")
    assert record["base_model"] == str(base) and record["settings"]["model"] == str(base)

    def interrupted_in_the_second(self, batches):
        if self.schedule.last_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batches)

    monkeypatch.setattr(Pretraining, "step", interrupted_in_the_second)
    assert pretrain_lm.main([*flags, "--output", str(tmp_path / "halves")]) == 130
    monkeypatch.setattr(Pretraining, "step", step)
    shutil.copy(tmp_path / "whole" / "model.safetensors", base)
    (base / SUMS_FILE).unlink()
    with pytest.raises(InputError, match="base: not the weights that this run began with"):
        pretrain_lm.main(["--resume", "--output", str(tmp_path / "halves")])
    shutil.copy(finished / "model.safetensors", base)
    (base / SUMS_FILE).write_bytes(sums)
    assert pretrain_lm.main(["--resume", "--output", str(tmp_path / "halves")]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "halves")]
    assert weights[0] == weights[1]


def test_documents_open_with_the_start_token_where_a_tokenizer_puts_one(tokenizer):
    opening, end = copy.deepcopy(tokenizer), tokenizer.eos_token_id
    template = processors.TemplateProcessing(single="\n $A", special_tokens=[("\n", tokenizer.encode("\n")[0])])
    opening.backend_tokenizer.post_processor = template
    texts = ["the tenant may rescind.", "a minor must give notice of the lien."]
    whole = [token for text in texts for token in [*tokenizer.encode("\n"), *tokenizer.encode(text), end]]
    assert pack_rows(texts, opening, 8).flatten().tolist() == whole[: len(whole) // 8 * 8]


@pytest.mark.parametrize(
    "flags, said", [(["--vocab", "320"], "--vocab is of a new model"), (["--params", "5m"], "--p")]
)
def test_a_model_from_elsewhere_has_its_own_size_and_tokenizer(flags, said, capsys):
    with pytest.raises(SystemExit) as ended:
        pretrain_lm.main(["--text", "t", "--model", "demo", *flags, "--epochs", "1", "--output", "o"])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_what_cannot_be_gone_on_with_is_refused(finished, tmp_path, text, data_folder):
    flags = ["--text", str(text), "--epochs", "1", "--output", str(tmp_path / "model")]
    with pytest.raises(InputError, match="was made for 2048 positions; --row-length is at most that"):
        pretrain_lm.load_base(Namespace(model=str(finished), row_length=2049))
    run = ["--model", finished, "--data", data_folder, "--epochs", 1, "--limit", 2, "--output", tmp_path / "run"]
    assert train_sdpo.main(list(map(str, run))) == 0
    with pytest.raises(InputError, match="run: a run; --model takes a model that has not been tuned"):
        pretrain_lm.main([*flags, "--model", str(tmp_path / "run")])
    assert not (tmp_path / "model").exists()


def test_a_row_of_one_token_predicts_nothing(capsys):
    with pytest.raises(SystemExit) as ended:
        pretrain_lm.main(["--text", "t", "--epochs", "1", "--row-length", "1", "--output", "o"])
    assert ended.value.code == 2 and "--row-length is 2 to 2048" in capsys.readouterr().err


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_that_is_no_projection_takes_part_in_no_product(tied):
    training = Pretraining(tiny_model(tie_word_embeddings=tied), 10, 1e-3)
    layers = sum(weight.numel() for name, weight in training.model.named_parameters() if name.endswith("proj.weight"))
    config = training.model.config
    attention = 6 * config.num_hidden_layers * config.hidden_size * 32
    expected = 6 * (layers + config.vocab_size * config.hidden_size) + attention
    assert throughput.flops_per_token(training, 32) == expected


def test_every_row_of_a_step_weighs_the_same(tokenizer):
    """However the rows are split into batches."""
    batches, told = torch.randint(len(tokenizer), (9, 16), generator=torch.Generator().manual_seed(0)), []
    for split in (9, 8):
        torch.manual_seed(0)
        training = Pretraining(new_model(tokenizer, **SIZES["5m"]), 10, 1e-3)
        loss = torch.tensor([training.step(batches.split(split))])
        moments = [state["exp_avg"].flatten() for state in training.optimizer.state.values()]
        told.append(torch.cat([loss, *moments]))
    torch.testing.assert_close(*told, rtol=1e-4, atol=1e-6)


def test_one_document_is_too_little_text():
    with pytest.raises(InputError, match="the text is too short: 0 documents to train on give 0 rows"):
        prepare(["a single document"], 300, 8, 0)


@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves(tmp_path, text, monkeypatch, capsys, sent, code):
    step = Pretraining.step

    def interrupted_in_the_second(self, batches):
        if self.schedule.last_epoch == 1:
            os.kill(os.getpid(), sent)
        return step(self, batches)

    monkeypatch.setattr(Pretraining, "step", interrupted_in_the_second)
    flags = ["--text", str(text), *FLAGS, "--epochs", "1", "--precision", "fp32", "--output", str(tmp_path / "model")]
    assert pretrain_lm.main(flags) == code
    said = capsys.readouterr().out
    assert "stopped after step 1; go on: python tools/pretrain_lm.py --resume" in said and "device: cpu" in said
    assert (tmp_path / "model" / "pretraining" / "checkpoint.safetensors").exists()


def test_a_start_that_failed_or_was_killed_can_be_made_again(tmp_path, text, monkeypatch):
    """A disk that is full when the rows are written; a kill at the same moment; another process that is at it."""
    folder = tmp_path / "model"
    flags = ["--text", str(text), *FLAGS, "--epochs", "1", "--precision", "fp32", "--output", str(folder)]

    def full(*_):
        with pytest.raises(InputError, match="another process works in it"):
            pretrain_lm.main(flags)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "save", full)
        with pytest.raises(OSError):
            pretrain_lm.main(flags)
    assert not folder.exists()
    (folder / ".pretraining.1.incomplete").mkdir(parents=True)
    with pytest.raises(InputError, match="no run to go on with .it has no run.json.; give the command without"):
        pretrain_lm.main(["--resume", "--output", str(folder)])
    monkeypatch.setattr(pretrain_lm, "train", lambda output: 0)
    assert pretrain_lm.main(flags) == 0
    assert [path.name for path in folder.iterdir()] == ["pretraining"]


def test_a_broken_checkpoint_is_named(tokenizer, tmp_path):
    size = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    (tmp_path / "c").write_bytes(b"\x80\x04pickle")
    training = Pretraining(new_model(tokenizer, **size), 10, 1e-3)
    with pytest.raises(InputError, match="c: broken checkpoint"):
        training.load(tmp_path / "c")
    training.step([torch.zeros(1, 4, dtype=torch.int64)])
    training.save(tmp_path / "c", step=1)
    assert training.load(tmp_path / "c") == {"step": 1}
    whole = bytearray((tmp_path / "c").read_bytes())
    for place in (len(whole) - 1, whole.index(b"last_epoch") + 14):  # of a tensor, of the schedule
        (tmp_path / "c").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match="c: broken checkpoint"):
            training.load(tmp_path / "c")


def test_rows_that_changed_are_not_trained_on(tmp_path, text, monkeypatch):
    monkeypatch.setattr(pretrain_lm, "train", lambda _: 0)
    flags = ["--text", str(text), *FLAGS, "--epochs", "1", "--output", str(tmp_path / "model")]
    assert pretrain_lm.main(flags) == 0
    monkeypatch.undo()
    path = tmp_path / "model" / "pretraining" / "rows.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="rows.safetensors: not as it was written"):
        pretrain_lm.main(["--resume", "--output", str(tmp_path / "model")])


def test_the_model_is_one_to_train_from(finished, tmp_path, monkeypatch, data_folder):
    monkeypatch.chdir(tmp_path)
    flags = ["--model", finished, "--data", data_folder, "--epochs", 1, "--limit", 2, "--output", "runs/a"]
    assert train_sdpo.main(list(map(str, flags))) == 0
    steps = [line for line in read_metrics(Path("runs/a")) if "loss" in line]
    assert steps[0]["loss"] == pytest.approx(math.log(5), abs=1e-4)


def test_minutes_become_steps_by_the_measured_speed(tmp_path, text, monkeypatch):
    monkeypatch.setattr(
        throughput, "seconds_per_step", lambda training, _: {"fp32": 3.0, "bf16": 2.0}[training.precision]
    )
    flags = ["--text", str(text), *FLAGS, "--minutes", "0.1", "--output", str(tmp_path / "model")]
    assert pretrain_lm.main(flags) == 0
    record = read_run(tmp_path / "model" / "pretraining")
    assert record["num_steps"] == 3
    assert record["precision"] == "bf16"


def test_excluded_texts_and_passages_are_left_out_and_counted(tmp_path, text, capsys, monkeypatch):
    """A passage is left out for 13 words of a held-out passage, and for those of a right ending alone."""
    held_out = [row | {"context": f"{row['context']} {sentences(64)[5]['text']}"} for row in rows(2, start=100)]
    gold = " ".join(f"word{number}" for number in range(13))
    held_out[1]["endings"][held_out[1]["label"]] = gold
    train = rows(41)
    train[7] = train[7] | {"context": held_out[0]["context"]}
    train[9]["endings"][train[9]["label"]] = gold
    folder = tmp_path / "questions"
    for split, questions in (("train", train), ("validation", held_out[:1]), ("test", held_out[1:])):
        write_jsonl(folder / f"{split}.jsonl", questions)
    prepared = []
    monkeypatch.setattr(pretrain_lm, "prepare", lambda texts, *rest: prepared.extend(texts) or prepare(texts, *rest))
    flags = ["--text", str(text), "--questions", str(folder), "--exclude", str(folder), *FLAGS]
    flags += ["--epochs", "1", "--output", str(tmp_path / "model")]
    pretrain_lm.start(pretrain_lm.read_settings(flags))
    printed = capsys.readouterr().out
    assert "texts: 64 read, 1 left out" in printed and "questions: 41 read, 2 left out" in printed
    filled = filled_passages([folder])
    assert prepared[:39] == [passage for number, passage in enumerate(filled) if number not in (7, 9)]
    flags = ["--questions", str(folder / "train.jsonl"), "--exclude", str(folder / "train.jsonl"), *FLAGS]
    with pytest.raises(InputError, match="no text is left"):
        pretrain_lm.main([*flags, "--epochs", "1", "--output", str(tmp_path / "none")])


@pytest.mark.parametrize(
    "flags, code, message",
    [
        (["--text", "{text}", "--output", "out"], 2, "give --minutes or --epochs"),
        (["--epochs", "1", "--output", "out"], 2, "give --text or --questions"),
        (["--text", "{text}", "--epochs", "1", "--minutes", "1", "--output", "out"], 2, "not allowed with"),
        (["--resume", "--output", "out", "--vocab", "400"], 2, "--resume takes --output alone, not --vocab"),
        (["--text", "{text}", "--epochs", "1", "--vocab", "100", "--output", "out"], 2, "--vocab is at least"),
        (["--resume", "--output", "out"], 1, "no run to go on with"),
        (["--text", "nowhere", "--epochs", "1", "--output", "out"], 1, "nowhere: no such file or folder"),
        (["--text", "{text}", "--epochs", "1", "--output", "{text.parent}"], 1, "exists already"),
        (["--text", "{text}", "--epochs", "1", "--output", "out", "--row-length", "2048"], 1, "the text is too short"),
    ],
)
def test_bad_flags_and_bad_input(tmp_path, monkeypatch, capsys, text, flags, code, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit if code == 2 else InputError) as stop:
        pretrain_lm.main(
            [*(flag.format(text=text) for flag in flags), *(["--workers", "1"] if "--text" in flags else [])]
        )
    assert message in (capsys.readouterr().err if code == 2 else str(stop.value))
    assert list(tmp_path.iterdir()) == []


def test_the_curve_is_drawn(tmp_path):
    plot_pretraining(
        [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.5}, {"step": 1, "held_out_loss": 1.6}], tmp_path / "c.png"
    )
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@needs_casehold
def test_an_epoch_of_real_passages(tmp_path):
    """Far better than guessing by frequency alone, and a model that evaluates; counted in text, not by the clock."""
    flags = ["--questions", CASEHOLD, "--params", "5m", "--vocab", 4096, "--epochs", 1, "--output", "model"]
    run_python(ROOT / "tools" / "pretrain_lm.py", *flags, cwd=tmp_path)
    result = read_run(tmp_path / "model" / "pretraining")["result"]
    assert result["bits_per_byte"] < 2.6
    flags = ["--split", "test", "--model", "model", "--data", CASEHOLD, "--limit", 20, "--output", "predictions.jsonl"]
    run_python(ROOT / "eval_mc.py", *flags, cwd=tmp_path)
    assert len([json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]) == 20
