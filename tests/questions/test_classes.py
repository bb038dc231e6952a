"""Class names as candidates: any classification file through the same pass, in training, evaluation, ONNX and C++."""

import json
import math
import subprocess

import pytest
from conftest import SCORE, write_jsonl

import eval_mc
import export as export_script
import train_sdpo
from lib.errors import InputError
from lib.models.loading import load_tokenizer
from lib.models.runs import read_metrics
from lib.questions.data import load_split
from lib.questions.forms import CLASSES
from lib.questions.prompt import encode_questions
from lib.questions.prompt_config import PromptConfig

SUBJECTS = ("lease", "deed", "lien", "bond", "trust", "will", "patent", "merger", "tort", "bail")
KINDS = ("notice", "waiver", "breach", "remedy", "venue", "appeal", "proof", "fees", "stay", "costs")
NAMES = [f"{subject} {kind}" for subject in SUBJECTS for kind in KINDS]


def rows(count: int, start: int = 0) -> list[dict]:
    return [
        {"text": f"Clause {n}: on {NAMES[7 * n % 100]}, the parties agree.", "label": 7 * n % 100}
        for n in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def names_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("classes") / "names.txt"
    path.write_text("\ufeff" + "\r\n".join(NAMES) + "\n\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def clauses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clauses")
    for split, count, start in (("train", 8, 0), ("validation", 4, 50), ("test", 6, 80)):
        write_jsonl(folder / f"{split}.jsonl", rows(count, start))
    return folder


def test_every_row_gets_the_class_names_and_its_label(names_file, clauses):
    data = load_split(str(clauses), "test", candidates_file=str(names_file))
    assert data.default_template == "{context}" and data.format == CLASSES.name
    for question, row in zip(data.questions, rows(6, 80), strict=True):
        assert question.endings == tuple(NAMES) and question.label == row["label"]
        assert question.fields == {"context": row["text"]} and sum(question.rewards) == 1


def test_a_label_is_a_place_or_a_name_and_a_name_wins(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("no\nyes\n1\n", encoding="utf-8")
    path = tmp_path / "rows.csv"
    path.write_text("text,label,court\na,yes,x\nb,0,x\nc,1,x\nd, no ,x\n", encoding="utf-8")
    data = load_split(str(path), "test", candidates_file=str(names))
    assert [question.label for question in data.questions] == [1, 0, 2, 0]
    assert data.questions[0].fields == {"context": "a", "court": "x"}


def test_other_class_names_are_other_data(tmp_path, names_file, clauses):
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("\n".join(reversed(NAMES)), encoding="utf-8")
    hashes = {load_split(str(clauses), "test", candidates_file=str(file)).sha256 for file in (names_file, fewer)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("names", "row", "message"),
    [
        ("a\nb\n", {"text": "x", "label": 2}, r"rows.jsonl:1: field 'label': 2 names none of the 2 candidates"),
        ("a\nb\n", {"text": "x", "label": "c"}, "field 'label': 'c' is not an integer or one of the 2 class names"),
        ("a\nb\n", {"text": "x", "label": [0, 1]}, r"field 'label': \[0, 1\] is not an integer"),
        ("a\nb\n", {"text": 3, "label": 0}, "field 'text': 3 is not a string"),
        ("a\nb\n", {"context": "x", "label": 0}, "field 'text': is missing; with --candidates a row has text and"),
        ("a\nb\n", {"text": "x"}, "field 'label': is missing; with --candidates"),
        ("a\n\n", {"text": "x", "label": 0}, "names.txt: 1 class names"),
        ("a\nb\n a\n", {"text": "x", "label": 0}, "names.txt:3: class name 'a' stands already in line 1"),
    ],
)
def test_broken_rows_and_class_files_are_named(tmp_path, names, row, message):
    (tmp_path / "names.txt").write_text(names, encoding="utf-8")
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    with pytest.raises(InputError, match=message):
        load_split(str(path), "test", candidates_file=str(tmp_path / "names.txt"))
    with pytest.raises(InputError, match="no such file"):
        load_split(str(path), "test", candidates_file=str(tmp_path / "none.txt"))


@pytest.mark.slow
def test_100_classes_go_through_training_evaluation_onnx_and_cpp(
    tmp_path, monkeypatch, model_folder, names_file, clauses, scorer
):
    monkeypatch.chdir(tmp_path)
    common = ["--data", str(clauses), "--candidates", str(names_file)]
    steps = ["--num-neg", "99", "--epochs", "1", "--output", "runs/a"]
    train_sdpo.main(["--model", str(model_folder), *common, *steps])
    metrics = read_metrics(tmp_path / "runs" / "a")
    assert metrics[0]["loss"] == pytest.approx(math.log(100), abs=1e-3)
    export_script.main(["--model", "runs/a", "--limit", "2"])  # data and class names are the run's

    found = {}
    for model in ("runs/a", "model.onnx"):
        output = tmp_path / "predictions.jsonl"
        eval_mc.main(["--model", model, *common, "--output", str(output)])
        found[model] = [json.loads(line) for line in output.read_text().splitlines()]
    questions = "".join(
        json.dumps({"context": row["text"], "endings": NAMES, "label": row["label"]}) + "\n" for row in rows(6, 80)
    )
    command = [SCORE, "--model", "model.onnx"]
    result = subprocess.run(command, input=questions, capture_output=True, text=True, check=True)
    found["C++"] = [json.loads(line) for line in result.stdout.splitlines()]
    for records in found.values():
        assert len(records) == 6
        for record, expected in zip(records, found["runs/a"], strict=True):
            assert len(record["logprobs"]) == 100
            assert record["logprobs"] == pytest.approx(expected["logprobs"], abs=2e-3)
            for field in ("id", "label", "prediction", "tokens", "bytes"):
                assert record[field] == expected[field]


def test_shared_endings_are_encoded_as_if_alone(names_file, clauses, model_folder):
    tokenizer = load_tokenizer(str(model_folder))
    questions = load_split(str(clauses), "test", candidates_file=str(names_file)).questions
    together = encode_questions(questions, tokenizer, PromptConfig("{context}"))
    for question, item in zip(questions, together, strict=True):
        assert encode_questions([question], tokenizer, PromptConfig("{context}")) == [item]
