"""Under which prompt a model was scored: a run's for a model that has none, named in every prediction; and whether the
questions are those that it was trained on."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import rows, tiny_model, write_jsonl
from peft import LoraConfig, get_peft_model

import eval_mc
import export
import train_sdpo
from lib.errors import InputError
from lib.export.contract import read_contract
from lib.models.loading import load_model
from lib.packed.selfcheck import unpacked_logprobs
from lib.questions.data import load_split
from lib.questions.prompt import encode_questions
from lib.questions.prompt_config import PromptConfig

CONTRACT = PromptConfig("Passage: {context} Holding:", max_length=64, end_token=False)


def evaluate(output: Path, *flags) -> list[dict]:
    eval_mc.main([*map(str, flags), "--output", str(output)])
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def trained(tmp_path, model_folder, data_folder) -> Path:
    """A model folder with the record of a run on the training questions."""
    folder = shutil.copytree(model_folder, tmp_path / "trained")
    record = {"finished": True, "settings": {"lora_r": 8, "model": "m"}}
    record["data_sha256"] = {"train": load_split(str(data_folder), "train").sha256}
    (folder / "run.json").write_text(json.dumps(record))
    CONTRACT.save(folder)
    return folder


def test_a_model_without_a_contract_is_scored_under_that_of_a_run(
    tmp_path, trained, model_folder, data_folder, tokenizer
):
    """The base of a run with another template, length and end: what the run was trained from."""
    questions = load_split(str(data_folder), "test").questions
    expected = encode_questions(questions, tokenizer, CONTRACT)
    for source in (trained, trained / "prompt.json"):
        flags = ("--model", model_folder, "--data", data_folder, "--contract", source)
        found = evaluate(tmp_path / "out.jsonl", *flags)
        for record, item in zip(found, expected, strict=True):
            with torch.no_grad():
                plain = unpacked_logprobs(tiny_model(), item, "cpu").tolist()
            assert record["logprobs"] == pytest.approx(plain, abs=2e-4)
            assert record["truncated"] == item.truncated > 0 and record["contract"] == CONTRACT.digest


def test_an_exports_contract_can_be_given_too(onnx_model):
    assert read_contract(str(onnx_model)) == PromptConfig("{context}", max_ending=256)


def test_an_export_is_made_under_the_contract_that_is_given(tmp_path, trained, model_folder, data_folder, monkeypatch):
    given = []
    monkeypatch.setattr(export, "export_scorer", lambda args, loaded, prompt, encoded: given.append((loaded, prompt)))
    flags = ["--model", model_folder, "--data", data_folder, "--contract", trained, "--output", tmp_path / "base.onnx"]
    assert export.main(list(map(str, flags))) == 0
    [(loaded, prompt)] = given
    loaded.tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    metadata = export.metadata(loaded, prompt, tmp_path / "tokenizer.json")
    assert prompt == CONTRACT and metadata["contract"] == CONTRACT.digest
    assert (metadata["template"], metadata["max_length"], metadata["end_token_id"]) == (CONTRACT.template, "64", "-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a prompt configuration"),
        ('{"template": "{context}", "max_length": "long"}', "max_length 'long' is not a number of tokens"),
        ('{"template": "{context}", "max_length": 0}', "max_length 0 is not a number of tokens"),
        ('{"template": 7}', "template 7 is not a string"),
        ('{"template": "{context}", "end_token": 1}', "end_token 1 is neither true nor false"),
    ],
)
def test_a_broken_contract_is_one_clear_line(tmp_path, text, message):
    (tmp_path / "prompt.json").write_text(text)
    for source in (tmp_path, tmp_path / "prompt.json"):
        with pytest.raises(InputError, match=f"prompt.json: .*{message}"):
            read_contract(str(source))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="--contract .*empty: there is no prompt.json in it"):
        read_contract(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="--contract .*none: no such run, export or prompt.json"):
        read_contract(str(tmp_path / "none"))


def test_files_under_different_contracts_are_not_compared_in_silence(
    tmp_path, capsys, trained, model_folder, data_folder
):
    flags = ("--model", model_folder, "--data", data_folder)
    own, given = tmp_path / "own.jsonl", tmp_path / "given.jsonl"
    records = evaluate(own, *flags)
    evaluate(given, *flags, "--contract", trained)
    older = [{name: value for name, value in record.items() if name != "contract"} for record in records]
    write_jsonl(tmp_path / "older.jsonl", older)

    def said(*others) -> str:
        capsys.readouterr()
        eval_mc.main(["--compare", *map(str, (own, *others))])
        return capsys.readouterr().out

    different = "warning: these answers stand under different prompt contracts"
    assert different in said(given) and CONTRACT.digest in said(given)
    assert "note: not every file names its prompt contract" in said(tmp_path / "older.jsonl")
    assert different in said(tmp_path / "older.jsonl", given)
    assert "contract" not in said(own)


def test_a_contract_is_a_string(tmp_path, model_folder, data_folder):
    records = evaluate(tmp_path / "a.jsonl", "--model", model_folder, "--data", data_folder)
    write_jsonl(tmp_path / "b.jsonl", [record | {"contract": 7} for record in records])
    with pytest.raises(InputError, match="b.jsonl:1: field 'contract': 7 is not a string"):
        eval_mc.main(["--compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])


def test_another_prompt_than_the_model_was_trained_with_is_said(capsys, trained, data_folder):
    flags = ["--model", str(trained), "--data", str(data_folder)]
    eval_mc.main(flags)
    assert "note: it was trained with" not in capsys.readouterr().out
    eval_mc.main([*flags, "--end-token"])
    assert "note: it was trained with PromptConfig(template='Passage: {context} Holding:'" in capsys.readouterr().out


def test_questions_that_a_model_was_trained_on_are_called_so(tmp_path, capsys, trained, data_folder):
    """One file serves every split: its accuracy as "test" would be that of training."""
    warning = "warning: the model was trained on these very questions"
    flags = ["--model", str(trained), "--data"]
    eval_mc.main([*flags, str(data_folder), "--report", str(tmp_path / "report")])
    assert warning not in capsys.readouterr().out
    same = shutil.copy(data_folder / "train.jsonl", tmp_path / "questions.jsonl")
    eval_mc.main([*flags, str(same), "--limit", "5", "--report", str(tmp_path / "own")])
    assert warning in capsys.readouterr().out
    for name in ("report.md", "report.html"):
        text = (tmp_path / "own" / name).read_text(encoding="utf-8")
        assert "trained on these very questions" in text and not re.search(
            "<strong>warning|95 % interval [^[]*%,", text
        )
        assert "trained on these very questions" not in (tmp_path / "report" / name).read_text(encoding="utf-8")


def test_what_a_run_started_from_was_trained_on_is_known_of_it_and_its_export(
    tmp_path, capsys, trained, data_folder, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    first = shutil.copy(data_folder / "train.jsonl", tmp_path / "first.jsonl")
    write_jsonl(tmp_path / "second.jsonl", rows(4, start=500))
    flags = ["--epochs", "1", "--lora-r", "0", "--limit", "2", "--validation-share", "0", "--output", "second"]
    train_sdpo.main(["--model", str(trained), "--data", "second.jsonl", *flags])
    export.main(["--model", "second", "--data", "second.jsonl", "--output", "second.onnx"])
    for model in ("second", "second.onnx"):
        for data in (first, "second.jsonl"):
            capsys.readouterr()
            eval_mc.main(["--model", model, "--data", str(data), "--limit", "2"])
            assert "warning: the model was trained on these very questions" in capsys.readouterr().out, (model, data)


def test_what_the_first_run_of_two_was_trained_on_counts_too(tmp_path, trained, tokenizer):
    model = load_model(str(trained), torch.float32).model
    model.name_or_path = str(trained)
    folder = tmp_path / "second"
    get_peft_model(model, LoraConfig(target_modules="all-linear")).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps({"finished": True, "data_sha256": {"train": "second"}}))
    first = json.loads((trained / "run.json").read_text())["data_sha256"]["train"]
    assert load_model(str(folder), torch.float32).trained_on == {first, "second"}


def test_a_base_is_named_for_a_run_alone(model_folder, data_folder, tmp_path):
    flags = ["--model", str(model_folder), "--data", str(write_jsonl(tmp_path / "q.jsonl", rows(2))), "--base", "demo"]
    for main in (eval_mc.main, export.main):
        with pytest.raises(InputError, match="--base demo: .*; leave the flag out"):
            main(flags)
