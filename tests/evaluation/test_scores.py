"""The five scores, from PyTorch and from an exported graph, each against forwards of its own."""

import json
import shutil

import onnx
import pytest
import torch
from conftest import rows, tiny_model, write_jsonl
from peft import LoraConfig, get_peft_model

import eval_mc
from lib.errors import InputError
from lib.evaluation.scorers import ModelScorer
from lib.evaluation.scores import SCORES, score_values
from lib.models.loading import load_model
from lib.packed.inference import start_accelerator
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer
from lib.packed.selfcheck import unpacked_logprobs
from lib.questions.data import load_split
from lib.questions.prompt import encode_questions
from lib.questions.prompt_config import PromptConfig
from lib.questions.template import neutral_prompt

TEMPLATE = "Passage: {context} Holding:"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, model_folder, tokenizer):
    """A run: an adapter on the tiny model that changes every layer, with a prompt contract of its own."""
    folder = tmp_path_factory.mktemp("run")
    model = type(tiny_model()).from_pretrained(model_folder)
    model.name_or_path = str(model_folder)
    torch.manual_seed(3)
    policy = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    PromptConfig(TEMPLATE).save(folder)
    return folder


def evaluate(output, *flags) -> list[dict]:
    eval_mc.main([*map(str, flags), "--output", str(output)])
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def plain_scores(model_folder, run_folder, data, tokenizer) -> dict[str, list[list[float]]]:
    """Every score by its definition, each candidate in a forward of its own."""
    policy = load_model(str(run_folder), torch.float32, merge=True).model
    base = type(tiny_model()).from_pretrained(model_folder).eval()
    found = {score: [] for score in SCORES}
    questions = load_split(str(data), "test").questions
    neutral = PromptConfig("{question}")
    with torch.no_grad():
        for question in questions:
            [item] = encode_questions([question], tokenizer, PromptConfig(TEMPLATE))
            bare = type(question)(**vars(question) | {"fields": {"question": "Passage:  Holding:"}})
            [premise] = encode_questions([bare], tokenizer, neutral)
            logprobs = unpacked_logprobs(policy, item, "cpu")
            tokens = torch.tensor([len(ids) for ids in item.ending_ids])
            sizes = torch.tensor([len(ending.encode()) for ending in question.endings])
            found["sum"].append(logprobs.tolist())
            found["mean"].append((logprobs / tokens).tolist())
            found["bytes"].append((logprobs / sizes).tolist())
            found["pmi"].append((logprobs - unpacked_logprobs(policy, premise, "cpu")).tolist())
            found["reward"].append((logprobs - unpacked_logprobs(base, item, "cpu")).tolist())
    return found


def test_every_score_equals_its_definition_and_all_gives_the_same(
    tmp_path, model_folder, run_folder, data_folder, tokenizer, capsys
):
    expected = plain_scores(model_folder, run_folder, data_folder, tokenizer)
    flags = ("--model", run_folder, "--data", data_folder)
    eval_mc.main([*map(str, flags), "--score", "all", "--output", str(tmp_path / "all.jsonl")])
    printed = capsys.readouterr().out
    for score in SCORES:
        records = evaluate(tmp_path / f"{score}.jsonl", *flags, "--score", score)
        for record, values in zip(records, expected[score], strict=True):
            assert score_values(record) == pytest.approx(values, abs=4e-4)
            assert record["prediction"] == values.index(max(values)) and record["score"] == score
        assert (tmp_path / f"all.{score}.jsonl").read_text() == (tmp_path / f"{score}.jsonl").read_text()
    [chosen] = [line for line in printed.splitlines() if "would choose" in line]
    assert "(6 questions)" in chosen and f"accuracy ({chosen.split()[-1]})" in printed


def test_validation_chooses_the_score_that_is_best_there(tmp_path, run_folder, data_folder, capsys):
    accuracy = {}
    for score in SCORES:
        flags = ("--model", run_folder, "--data", data_folder, "--split", "validation", "--score", score)
        records = evaluate(tmp_path / "out.jsonl", *flags)
        accuracy[score] = sum(record["prediction"] == record["label"] for record in records)
    capsys.readouterr()
    eval_mc.main(["--model", str(run_folder), "--data", str(data_folder), "--score", "all"])
    best = max(SCORES, key=accuracy.__getitem__)
    assert f"would choose: {best}\n" in capsys.readouterr().out


def test_a_single_file_has_no_validation_to_choose_by(run_folder, data_folder, capsys):
    eval_mc.main(["--model", str(run_folder), "--data", str(data_folder / "test.jsonl"), "--score", "all"])
    printed = capsys.readouterr().out
    assert "no validation questions of their own" in printed and "accuracy (sum)" in printed


def test_a_base_model_has_no_reward(model_folder, data_folder, capsys):
    flags = ["--model", str(model_folder), "--data", str(data_folder), "--score"]
    with pytest.raises(InputError, match="no run, so it has no reference"):
        eval_mc.main([*flags, "reward"])
    eval_mc.main([*flags, "all"])
    printed = capsys.readouterr().out
    assert "\npmi " in printed and "\nreward " not in printed


def test_the_neutral_prompt_is_the_template_without_its_fields():
    assert neutral_prompt("{context}") == neutral_prompt(" {question}\n") == "Answer:"
    assert neutral_prompt("Passage: {context} Holding:") == "Passage:  Holding:"
    assert neutral_prompt("{context}\nQ: {question}\n") == "\nQ:"


@torch.no_grad()
def test_tokens_add_up_to_their_candidate(encode):
    scorer = PackedScorer(tiny_model())
    batch = pack(encode(rows(4) + rows(1, num_candidates=9, start=40)))
    tokens, sums = scorer(batch.by_token()), scorer(batch)
    for row, owner, expected in zip(tokens, batch.cand_index, sums, strict=True):
        for candidate in range(int(owner.max()) + 1):
            mine = row[owner == candidate]
            assert (mine < 0).all()
            torch.testing.assert_close(mine.sum(), expected[candidate], rtol=1e-5, atol=1e-4)
        assert (row[owner < 0] == 0).all()


def test_onnx_gives_what_pytorch_gives(tmp_path, model_folder, data_folder, onnx_model):
    for score in ("sum", "mean", "pmi"):
        ours, exported = (
            evaluate(tmp_path / "out.jsonl", "--model", model, "--data", data_folder, "--score", score)
            for model in (model_folder, onnx_model)
        )
        for one, other in zip(ours, exported, strict=True):
            assert one["logprobs"] == pytest.approx(other["logprobs"], abs=2e-3)
            same = {name: value for name, value in one.items() if not name.endswith("logprobs")}
            assert same == {name: value for name, value in other.items() if not name.endswith("logprobs")}


def test_a_graph_is_not_asked_past_the_positions_of_its_model(tmp_path, data_folder, onnx_model):
    """It has full attention, and answers there with log-probs that are not the model's."""
    PromptConfig("{context}", max_length=2049).save(tmp_path)
    with pytest.raises(InputError, match="model.onnx: is the model up to 2048 positions, fewer than .* 2049"):
        eval_mc.main(["--model", str(onnx_model), "--data", str(data_folder), "--contract", str(tmp_path)])


def test_an_onnx_file_brings_its_prompt_contract_and_tokenizer(tmp_path, data_folder, onnx_model):
    folder = shutil.copytree(onnx_model.parent, tmp_path / "copy")
    graph = onnx.load(folder / onnx_model.name, load_external_data=False)
    for entry in graph.metadata_props:
        entry.value = {"template": TEMPLATE, "max_length": "99"}.get(entry.key, entry.value)
    onnx.save(graph, folder / onnx_model.name)
    (folder / "model.golden.jsonl").unlink()  # it is not this file's any more
    model = ModelScorer(str(folder / onnx_model.name), start_accelerator("fp32"), "fp32", 4)
    assert model.prompt == PromptConfig(TEMPLATE, 99, max_ending=256)
    *golden, _ = map(json.loads, onnx_model.with_name("model.golden.jsonl").read_text().splitlines())
    questions = load_split(str(data_folder), "validation", limit=len(golden)).questions
    for row, item in zip(golden, encode_questions(questions, model.tokenizer, PromptConfig("{context}")), strict=True):
        assert (row["prompt_ids"], row["ending_ids"]) == (item.prompt_ids, item.ending_ids)


def test_onnx_files_that_do_not_belong_together_are_refused(tmp_path, data_folder, onnx_model):
    flags = ["--data", str(data_folder), "--model"]
    with pytest.raises(InputError, match="no such file"):
        eval_mc.main([*flags, str(tmp_path / "none.onnx")])
    folder = shutil.copytree(onnx_model.parent, tmp_path / "copy")
    with pytest.raises(InputError, match="no reference"):
        eval_mc.main([*flags, str(folder / onnx_model.name), "--score", "reward"])
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    with pytest.raises(InputError, match="not the tokenizer that model.onnx was exported with"):
        eval_mc.main([*flags, str(folder / onnx_model.name)])
    (folder / onnx_model.name).write_bytes(b"none of it")
    with pytest.raises(InputError, match="not an ONNX file"):
        eval_mc.main([*flags, str(folder / onnx_model.name)])


def test_a_choice_can_be_made_again_from_its_file(tmp_path, run_folder, data_folder):
    path = write_jsonl(tmp_path / "one.jsonl", rows(2))
    for score, field in (("pmi", "neutral_logprobs"), ("reward", "reference_logprobs")):
        for record in evaluate(tmp_path / "out.jsonl", "--model", run_folder, "--data", path, "--score", score):
            assert list(record)[4:6] == ["logprobs", field]
