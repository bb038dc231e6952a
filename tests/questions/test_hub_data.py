"""The hub's data sets by name, from copies that the hub's libraries read offline: parquet and tables of the real
columns and features, in the layout of their caches."""

import json
import math
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest
from conftest import ROOT, SCORE, rows, run_main, run_python
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset_builder

import eval_mc
import export as export_script
import train_sdpo
from lib.errors import InputError
from lib.models.runs import read_metrics
from lib.questions.data import has_validation, load_split
from lib.questions.hub_data import LEGALBENCH_PROMPTS, hub_data

REVISION = "0123456789" * 4
AREAS = [str(number) for number in range(1, 14)]  # scotus: LexGLUE numbers the issue areas
PROVISIONS = ["Adjustments", "Agreements", "Amendments", "Anti-Corruption Laws", "Waivers"]  # five of ledgar's 100
CLASSIFICATION = {"text": Value("string"), "label": None}
CASEHOLD = {"context": Value("string"), "endings": List(Value("string")), "label": ClassLabel(names=list("01234"))}
MMLU = {
    "question": Value("string"),
    "subject": Value("string"),
    "choices": List(Value("string")),
    "answer": ClassLabel(names=list("ABCD")),
}


def texts(names: list[str], count: int, start: int = 0) -> list[dict]:
    places = range(start, start + count)
    return [{"text": f"Opinion {n} is on area {names[n % len(names)]}.", "label": n % len(names)} for n in places]


def exam(count: int) -> list[dict]:
    choices = ["The flag State", "The coastal State", "All States", "No State"]
    shared = {"subject": "law", "choices": choices}
    return [{"question": f"Whose ship {n}?", "answer": n % 4} | shared for n in range(count)]


LEXGLUE_SPLITS = {"train": 26, "validation": 13, "test": 14}
PARQUET = {
    ("coastalcph/lex_glue", "case_hold"): (
        CASEHOLD,
        {"test": [{name: row[name] for name in CASEHOLD} for row in rows(3)]},
    ),
    ("coastalcph/lex_glue", "scotus"): (
        CLASSIFICATION | {"label": ClassLabel(names=AREAS)},
        {split: texts(AREAS, count) for split, count in LEXGLUE_SPLITS.items()},
    ),
    ("coastalcph/lex_glue", "ledgar"): (
        CLASSIFICATION | {"label": ClassLabel(names=PROVISIONS)},
        {split: texts(PROVISIONS, count) for split, count in LEXGLUE_SPLITS.items()},
    ),
    ("cais/mmlu", "professional_law"): (MMLU, {"validation": exam(3), "test": exam(5), "dev": exam(2)}),
    ("cais/mmlu", "jurisprudence"): (MMLU, {"validation": exam(1), "test": exam(2), "dev": exam(1)}),
    ("cais/mmlu", "international_law"): (MMLU, {"validation": exam(1), "test": exam(2), "dev": exam(1)}),
}
HEARSAY = "index\tanswer\ttext\tslice\n"
SARA = "index\tstatute\tdescription\ttext\tquestion\tcase id\tanswer\n"
CHOICES = "\t".join(f"choice_{place}" for place in range(5))
TABLES = {
    "hearsay": (
        HEARSAY + "0\tNo\tAnna waved.\tNon-assertive conduct\n1\tYes\tBen said so.\tStandard hearsay\n",
        HEARSAY + '0\tYes\t"Carl said\nit ""twice""."\tStandard hearsay\n1\tNo\tNone\tStandard hearsay\n2\tNo\tNA\tx\n',
    ),
    "contract_qa": (
        "index\ttext\tquestion\tanswer\n0\tThe fee is due.\tIs there a fee?\tYes\n1\tNo fee.\tIs there a fee?\tNo\n",
        "index\ttext\tquestion\tanswer\n0\tNo fee is due.\tIs a fee due?\tNo\n",
    ),
    "sara_entailment": (
        SARA + "0\t(A) tax\tAnn.\tAnn. Owes?\tOwes?\ta\tEntailment\n",
        SARA + "0\t(B) tax\tBob.\tBob. Owes?\tOwes?\tb\tContradiction\n",
    ),
    # The train split lacks a class; and an answer that is a number is a name too.
    "overruling": ("index\ttext\tanswer\n0\ta\t1\n", "index\ttext\tanswer\n0\tb\t0\n1\tc\t1 \n"),
    "scalr": (
        f"index\tquestion\t{CHOICES}\tanswer\n0\tMay he?\ta\tb\tc\td\te\t4\n",
        f"index\tquestion\t{CHOICES}\tanswer\n0\tMay she?\tf\tg\th\ti\tj\t1\n",
    ),
    "rule_qa": (
        "index\ttext\tanswer\tdoctrine\n",
        "index\ttext\tanswer\tdoctrine\n" + "".join(f"{n}\tq\tRule {n}.\tTort\n" for n in range(50)),
    ),
    "successor_liability": (
        "\tindex\ttext\tissue\tanswer\n0\t0\ta\tx\t['express agreement']\n",
        "\tindex\ttext\tissue\tanswer\n0\t0\ta\tx\t['express agreement', 'mere continuation']\n",
    ),
    "unknown_columns": ("index\tpicture\tanswer\n0\ta\tYes\n", "index\tpicture\tanswer\n0\ta\tNo\n"),
    "broken": ("index\ttext\tanswer\n", 'index\ttext\tanswer\n0\ta\tYes\n1\t"b\tNo\n'),
    "no_answer": ("index\ttext\tlabel\n0\ta\tYes\n", "index\ttext\tlabel\n0\ta\tNo\n"),
}


@pytest.fixture(scope="session")
def hub_home(tmp_path_factory) -> Path:
    """What HF_HOME holds once everything has been read from the hub."""
    home = tmp_path_factory.mktemp("hub")
    for (repo, config), (features, splits) in PARQUET.items():
        source = home / "source" / config / repo.split("/")[1]
        for split, made in splits.items():
            (source / config).mkdir(parents=True, exist_ok=True)
            Dataset.from_list(made, features=Features(features)).to_parquet(source / config / f"{split}-0.parquet")
        files = "".join(f"  - {{split: {split}, path: {config}/{split}-*}}\n" for split in splits)
        (source / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")
        builder = load_dataset_builder(str(source), config, cache_dir=str(home / "prepared"))
        builder.download_and_prepare(str(home / "datasets" / repo.replace("/", "___") / config / "0.0.0" / REVISION))
    legalbench = home / "hub" / "datasets--nguha--legalbench"
    (legalbench / "refs").mkdir(parents=True)
    (legalbench / "refs" / "main").write_text(REVISION)
    for task, tables in TABLES.items():
        folder = legalbench / "snapshots" / REVISION / "data" / task
        folder.mkdir(parents=True)
        for split, table in zip(("train", "test"), tables, strict=True):
            (folder / f"{split}.tsv").write_text(table, encoding="utf-8")
    return home


@pytest.fixture
def hub(hub_home, tmp_path, monkeypatch):
    """This process, offline, in a folder of its own, with that cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub_home / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(hub_home / "datasets"))
    huggingface_hub.utils.reset_sessions()
    yield
    huggingface_hub.utils.reset_sessions()  # those opened here stay offline


def refusal(data: str, split: str = "test", **options) -> str:
    with pytest.raises(InputError) as caught:
        load_split(data, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- LexGLUE and MMLU ----


@pytest.mark.parametrize(("config", "names"), [("scotus", AREAS), ("ledgar", PROVISIONS)])
def test_the_candidates_of_lexglue_are_the_class_names_of_its_features(hub, config, names):
    for split, count in LEXGLUE_SPLITS.items():
        data = load_split(f"lexglue/{config}", split)
        assert (data.format, data.default_template) == ("classes", "{context}")
        assert data.source == f"coastalcph/lex_glue {config} {split}"
        for question, row in zip(data.questions, texts(names, count), strict=True):
            assert question.endings == tuple(names) and question.label == row["label"]
            assert question.fields == {"context": row["text"]}
    assert has_validation(f"lexglue/{config}")


def test_case_hold_is_casehold_by_another_name(hub):
    ours, theirs = load_split("lexglue/case_hold", "test"), load_split("casehold", "test")
    assert ours == theirs and ours.format == "lexglue" and len(ours.questions) == 3


def test_other_class_names_stand_for_those_of_the_features(hub, tmp_path):
    """scotus has numbers for names; a file gives them words, in the order of the features."""
    words = [f"area of {name}" for name in AREAS]
    (tmp_path / "areas.txt").write_text("\n".join(words))
    plain = load_split("lexglue/scotus", "test")
    named = load_split("lexglue/scotus", "test", candidates_file="areas.txt")
    assert named.questions[0].endings == tuple(words)
    assert [question.label for question in named.questions] == [question.label for question in plain.questions]
    assert named.sha256 != plain.sha256
    (tmp_path / "areas.txt").write_text("\n".join(words[1:]))
    message = refusal("lexglue/scotus", candidates_file="areas.txt")
    assert message == "areas.txt: 12 class names, coastalcph/lex_glue scotus test has 13"


@pytest.mark.parametrize("subject", ["professional_law", "jurisprudence", "international_law"])
def test_the_law_subjects_of_mmlu(hub, subject):
    data = load_split(f"mmlu/{subject}", "test")
    assert (data.format, data.default_template) == ("mmlu", "{question}")
    assert [question.label for question in data.questions] == [n % 4 for n in range(len(data.questions))]
    assert data.questions[1].fields == {"question": "Whose ship 1?", "subject": "law"}
    assert len(load_split(f"mmlu/{subject}", "validation").questions) < len(data.questions)
    assert has_validation(f"mmlu/{subject}")


def test_the_limit_leaves_data_and_hash_as_they_are(hub):
    whole, part = load_split("lexglue/scotus", "test"), load_split("lexglue/scotus", "test", limit=2)
    assert whole.questions[:2] == part.questions and whole.sha256 == part.sha256


# ---- LegalBench ----


def test_the_candidates_of_legalbench_are_the_answers_of_both_splits(hub):
    data = load_split("legalbench/hearsay", "test")
    assert (data.format, data.default_template) == ("classes", "{context}")
    assert [question.label for question in data.questions] == [1, 0, 0]
    assert {question.endings for question in data.questions} == {("No", "Yes")}
    assert [question.fields for question in data.questions] == [
        {"context": 'Carl said\nit "twice".'},
        {"context": "None"},  # no missing value
        {"context": "NA"},
    ]
    train, test = (load_split("legalbench/overruling", split).questions for split in ("train", "test"))
    assert {question.endings for question in train + test} == {("0", "1")}
    assert [question.label for question in train + test] == [1, 0, 1]
    assert not has_validation("legalbench/hearsay")


def test_other_class_names_stand_for_the_answers_of_legalbench(hub, tmp_path):
    (tmp_path / "names.txt").write_text("no hearsay\nhearsay")
    named = load_split("legalbench/hearsay", "test", candidates_file="names.txt")
    assert named.questions[0].endings == ("no hearsay", "hearsay")
    assert [question.label for question in named.questions] == [1, 0, 0]


def test_a_prompt_of_several_columns_has_a_template_of_its_own(hub):
    data = load_split("legalbench/contract_qa", "test")
    assert data.default_template == "{context}\n{question}"
    assert data.questions[0].fields == {"context": "No fee is due.", "question": "Is a fee due?"}
    sara = load_split("legalbench/sara_entailment", "test")
    assert sara.default_template == "{context}\n{description}\n{question}"
    assert sara.questions[0].fields == {"context": "(B) tax", "description": "Bob.", "question": "Owes?"}


def test_every_prompt_of_legalbench_holds_the_field_that_may_be_cut():
    assert all(template.count("{context}") == 1 for _, template in LEGALBENCH_PROMPTS)


def test_choices_of_a_row_s_own_are_its_candidates(hub):
    data = load_split("legalbench/scalr", "test")
    assert (data.format, data.default_template) == ("mmlu", "{question}")
    [question] = data.questions
    assert question.endings == ("f", "g", "h", "i", "j") and question.label == 1
    assert question.fields == {"question": "May she?"}


@pytest.mark.parametrize(
    ("task", "split", "message"),
    [
        ("rule_qa", "test", "legalbench/rule_qa: no classification: it has 50 distinct answers, such as 'Rule 0.'"),
        ("rule_qa", "train", "nguha/legalbench rule_qa train: there are no questions in it"),
        ("successor_liability", "train", "no classification: it has 2 distinct answers, such as"),
        ("unknown_columns", "test", "none of its columns (index, picture, answer) is known for a prompt; those are st"),
        ("broken", "test", "--data legalbench/broken: "),
        ("no_answer", "test", "field 'answer' is missing; there are index, text, label"),
        ("hearsay", "validation", "legalbench/hearsay: it has no validation split, only train and test"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(hub, task, split, message):
    assert message in refusal(f"legalbench/{task}", split)


# ---- names ----


def test_an_unknown_name_lists_what_there_is(hub):
    for name in ("lexglue/scotuss", "lexglue", "mmlu/astronomy", "legalbench/", "legalbench/a/b", "superglue"):
        message = refusal(name)
        assert message.startswith(f"{name.rstrip('/')}: no such file or folder; --data takes casehold, demo, lexglue/")
        for known in ("lexglue/ledgar", "lexglue/scotus", "mmlu/professional_law", "legalbench/TASK", "a folder"):
            assert known in message


@pytest.mark.parametrize("config", ["ecthr_a", "ecthr_b", "eurlex", "unfair_tos"])
def test_a_task_of_several_labels_is_refused_by_name(config):
    assert refusal(f"lexglue/{config}").startswith(f"lexglue/{config}: a text there has several labels, ")


def test_a_folder_of_the_name_goes_before_the_hub(hub, tmp_path):
    for name in ("lexglue/scotus", "lexglue/ecthr_a", "legalbench/hearsay"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "test.jsonl").write_text(json.dumps(rows(1)[0]) + "\n")
        assert hub_data(name) is None and not has_validation(name)
        assert load_split(name, "test").source == f"{name}/test.jsonl"
    (tmp_path / "casehold").mkdir()
    assert load_split("casehold", "test").source == "coastalcph/lex_glue case_hold test"


def test_what_is_not_in_the_cache_is_named_offline(hub):
    for name in ("legalbench/abercrombie", "lexglue/ledgar_"):
        assert "\n" not in refusal(name)
    assert refusal("legalbench/abercrombie").startswith("--data legalbench/abercrombie: ")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as answers for LegalBench: the repository, the folders of its tasks, and no file at all."""

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def answer(self):
        folders = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f"data/{task}"} for task in TABLES]
        answers = {
            "/api/datasets/nguha/legalbench": {"id": "nguha/legalbench", "siblings": []},
            "/api/datasets/nguha/legalbench/tree/main/data": folders,
        }
        body = json.dumps(answers.get(self.path.split("?")[0], {})).encode()
        self.send_response(404 if "/resolve/" in self.path else 200)
        if "/resolve/" in self.path:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_an_unknown_task_lists_those_of_the_hub(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
        environment |= {"HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        code = "from lib.questions.data import load_split; load_split('legalbench/heresay', 'test')"
        ended = run_python("-c", code, cwd=ROOT, check=False, **environment)
        server.shutdown()
    tasks = ", ".join(sorted(TABLES))
    message = f"legalbench/heresay: LegalBench has no such task; there are {tasks}"
    assert ended.stderr.splitlines()[-1] == f"lib.errors.InputError: {message}"


# ---- the whole way ----


def test_the_scripts_refuse_a_split_that_the_hub_lacks(hub, model_folder):
    trained = run_main(train_sdpo.main, "--model", model_folder, "--data", "mmlu/jurisprudence", "--output", "a")
    message = "mmlu/jurisprudence: it has no train split, only validation and test; take other questions for train"
    assert trained.returncode == 1 and trained.stderr.splitlines()[-1] == f"error: {message}"
    flags = ("--model", model_folder, "--data", "legalbench/hearsay", "--split", "validation")
    evaluated = run_main(eval_mc.main, *flags)
    assert evaluated.returncode == 1 and "no validation split, only train and test" in evaluated.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "num_candidates", "fields"),
    [
        ("lexglue/scotus", 13, {"context": "Opinion 0 is on area 1."}),
        ("legalbench/contract_qa", 2, {"context": "No fee is due.", "question": "Is a fee due?"}),
    ],
)
def test_named_data_goes_through_training_evaluation_onnx_and_cpp(
    hub, model_folder, scorer, tmp_path, data, num_candidates, fields
):
    steps = ["--num-neg", num_candidates - 1, "--epochs", "1", "--output", "runs/a"]
    assert run_main(train_sdpo.main, "--model", model_folder, "--data", data, *steps).returncode == 0
    assert read_metrics(tmp_path / "runs" / "a")[0]["loss"] == pytest.approx(math.log(num_candidates), abs=1e-3)
    assert run_main(export_script.main, "--model", "runs/a", "--limit", "2").returncode == 0  # the run's data
    ended = run_main(eval_mc.main, "--model", "model.onnx", "--data", data, "--output", "predictions.jsonl")
    assert ended.returncode == 0
    ours = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[0])
    question = load_split(data, "test").questions[0]
    assert question.fields == fields
    line = json.dumps(question.fields | {"endings": question.endings, "label": question.label})
    command = [SCORE, "--model", "model.onnx"]
    result = subprocess.run(command, input=line, capture_output=True, text=True, check=True)
    theirs = json.loads(result.stdout)
    assert theirs["logprobs"] == pytest.approx(ours["logprobs"], abs=2e-3) and len(theirs["logprobs"]) == num_candidates
    assert theirs["tokens"] == ours["tokens"] and theirs["contract"] == ours["contract"]


@pytest.mark.slow
def test_the_law_of_mmlu_evaluates_and_checks_an_export(hub, model_folder, tmp_path):
    flags = ["--model", model_folder, "--data", "mmlu/professional_law"]
    for split, count in (("validation", 3), ("test", 5)):
        ended = run_main(eval_mc.main, *flags, "--split", split, "--output", f"{split}.jsonl")
        assert ended.returncode == 0, ended.stderr
        assert len((tmp_path / f"{split}.jsonl").read_text().splitlines()) == count
    assert run_main(export_script.main, *flags, "--output", "law.onnx").returncode == 0
