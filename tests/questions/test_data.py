"""Every form of question, every way a file can be broken, and the hub that cannot be reached."""

import csv
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import types

import pytest
from conftest import CASEHOLD, ROOT, needs_casehold, run_python, write_jsonl

from lib import hub
from lib.errors import InputError
from lib.questions.data import load_split

LEXGLUE = {"context": "The court held", "endings": ["holding A", "holding B", "holding C"], "label": 1}
MMLU = {"question": "Who decides?", "choices": ["The judge", "The jury"], "answer": 1}
GRADED = {"prompt": "Draft a deed", "responses": ["a", "b", "c"], "scores": [1, 4.5, 4.5]}
LONG = [
    {"prompt": "p", "response": "a", "score": 1},
    {"prompt": "q", "response": "c", "score": 0.5},
    {"prompt": "p", "response": "b", "score": 3},
    {"prompt": "q", "response": "d", "score": 0},
]
PREFERENCE = {"prompt": "Draft a deed", "chosen": "a good one", "rejected": "a bad one"}
ASKED, GOOD = {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}
BAD, OTHER = GOOD | {"content": "b"}, GOOD | {"content": "c"}


def write_csv(path, records):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


def load(path, records, **options):
    return load_split(str(write_jsonl(path / "rows.jsonl", records)), "test", **options)


def refusal(path, content, name="rows.jsonl", **options) -> str:
    """The one line that loading `content` ends with."""
    (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        load_split(str(path / name), "test", **options)
    message = str(caught.value)
    assert message.startswith(f"{path / name}:")
    assert "\n" not in message
    return message.removeprefix(f"{path / name}:")


# ---- the six forms ----


def test_lexglue(tmp_path):
    data = load(tmp_path, [LEXGLUE, LEXGLUE | {"id": "b", "label": 0, "court": "9th Cir.", "year": 1999}])
    first, second = data.questions
    assert (data.format, data.default_template) == ("lexglue", "{context}")
    assert first.id == "0" and second.id == "b"
    assert first.endings == ("holding A", "holding B", "holding C")
    assert first.rewards == (0.0, 1.0, 0.0) and first.label == 1
    assert first.source == f"{tmp_path / 'rows.jsonl'}:1"
    assert second.fields == {"context": "The court held", "court": "9th Cir."}
    assert data.sha256 == hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest()


@pytest.mark.parametrize("num_holdings", [2, 5, 12])
def test_original_casehold_csv(tmp_path, num_holdings):
    holdings = {f"holding_{index}": f"holding, no. {index}" for index in range(num_holdings)}
    row = {"": "7", "citing_prompt": 'He said "no".\nThen <HOLDING>', **holdings, "label": str(num_holdings - 1)}
    path = write_csv(tmp_path / "rows.csv", [row, row])
    data = load_split(str(path), "train")
    assert (data.format, data.default_template) == ("casehold", "{context}")
    assert data.questions[0].fields["context"] == row["citing_prompt"]
    assert not {"citing_prompt", "label", *holdings} & set(data.questions[0].fields)
    assert data.questions[1].endings == tuple(holdings.values())
    assert data.questions[1].label == num_holdings - 1
    # A row holds one line break, so the second starts at physical line 4.
    assert [question.source for question in data.questions] == [f"{path}:2", f"{path}:4"]


def test_original_casehold_columns_as_json(tmp_path):
    data = load(tmp_path, [{"citing_prompt": "c", "holding_0": "a", "holding_1": "b", "label": "0"}])
    assert data.questions[0].endings == ("a", "b") and data.questions[0].label == 0


@pytest.mark.parametrize(("answer", "label"), [(0, 0), (1, 1), ("A", 0), ("B", 1), ("1", 1)])
def test_mmlu(tmp_path, answer, label):
    data = load(tmp_path, [MMLU | {"answer": answer, "subject": "law"}])
    assert (data.format, data.default_template) == ("mmlu", "{question}")
    assert data.questions[0].label == label
    assert data.questions[0].fields == {"question": "Who decides?", "subject": "law"}


def test_graded_scores_are_the_rewards_and_the_first_best_is_the_label(tmp_path):
    data = load(tmp_path, [GRADED])
    assert (data.format, data.default_template) == ("graded", "{prompt}")
    assert data.questions[0].rewards == (1.0, 4.5, 4.5) and data.questions[0].label == 1


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_long_rows_are_grouped_by_prompt_in_order_of_first_appearance(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    (write_csv if suffix == "csv" else write_jsonl)(path, LONG)
    data = load_split(str(path), "test")
    assert (data.format, data.default_template) == ("long", "{prompt}")
    assert [(q.id, q.fields["prompt"], q.endings, q.rewards, q.label) for q in data.questions] == [
        ("0", "p", ("a", "b"), (1.0, 3.0), 1),
        ("1", "q", ("c", "d"), (0.5, 0.0), 0),
    ]
    [only] = load_split(str(path), "test", limit=1).questions
    assert only == data.questions[0]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_of_a_preference_the_chosen_answer_is_the_last_candidate(tmp_path, suffix):
    """So that a tie is not won by it: the first of equals is chosen."""
    path = tmp_path / f"rows.{suffix}"
    (write_csv if suffix == "csv" else write_jsonl)(path, [PREFERENCE | {"source": "s"}])
    data = load_split(str(path), "test")
    assert (data.format, data.default_template) == ("preference", "{prompt}")
    [question] = data.questions
    assert question.fields == {"prompt": "Draft a deed", "source": "s"}
    assert question.endings == ("a bad one", "a good one")
    assert question.rewards == (0.0, 1.0) and question.label == 1


@pytest.mark.parametrize("rejected", [["b", "c"], [[BAD], "c"], [[BAD], [OTHER]], ["b", [ASKED, BAD]]])
def test_a_preference_may_have_several_rejected_answers(tmp_path, rejected):
    [question] = load(tmp_path, [{"prompt": "q", "chosen": "a", "rejected": rejected}]).questions
    last = "c" if len(rejected[1]) == 1 else "user: p\nassistant: b"
    assert question.endings == ("b", last, "a")
    assert question.rewards == (0.0, 0.0, 1.0) and question.label == 2


def test_one_message_is_its_content_and_several_are_a_line_each(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, ASKED, GOOD, {"role": "user", "content": "And\nthen?"}]
    rows = [
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": turns, "chosen": [GOOD, ASKED], "rejected": "b"},
    ]
    one, several = load(tmp_path, rows).questions
    assert one.fields == {"prompt": "p"} and one.endings == ("b", "a")
    assert several.fields == {"prompt": "system: Be brief.\nuser: p\nassistant: a\nuser: And\nthen?"}
    assert several.endings == ("b", "assistant: a\nuser: p")


@pytest.mark.parametrize("prompt", ["p", [ASKED]])
def test_answers_that_repeat_the_prompt_begin_after_it(tmp_path, prompt):
    """As in ultrafeedback_binarized, where both are whole conversations."""
    row = {"prompt": prompt, "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}
    other = {"prompt": "another", "chosen": [ASKED, GOOD], "rejected": [ASKED]}
    repeated, kept = load(tmp_path, [row, other]).questions
    assert repeated.fields == {"prompt": "p"} and repeated.endings == ("b", "a")
    assert kept.endings == ("p", "user: p\nassistant: a")


@pytest.mark.parametrize("shared", ["The sky is ", [ASKED]])
def test_a_prompt_that_only_the_answers_hold_is_refused_with_what_to_do(tmp_path, shared):
    row = {"chosen": shared + type(shared)("a"), "rejected": shared + type(shared)("b")}
    message = refusal(tmp_path, json.dumps(row))
    assert message.startswith("1: field 'prompt': is missing; chosen and rejected begin with it: split it off, as trl.")


def test_endings_are_kept_as_given(tmp_path):
    endings = ["  a\u00a0\n", "b\u2028c", "{context}", "\x00"]
    assert load(tmp_path, [LEXGLUE | {"endings": endings}]).questions[0].endings == tuple(endings)


def test_what_files_may_hold(tmp_path):
    """A byte order mark, Windows line ends, blank lines, U+2028 unescaped, no line end at the end, a whole pair."""
    line = json.dumps(LEXGLUE | {"context": "a\u2028b"}, ensure_ascii=False)
    path = tmp_path / "rows.JSON"
    pair = json.dumps(LEXGLUE | {"context": "\U0001f600"})
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n{pair}".encode())
    first, second = load_split(str(path), "test").questions
    assert first.fields["context"] == "a\u2028b" and second.fields["context"] == "\U0001f600"
    assert (second.id, second.source) == ("1", f"{path}:3")


def test_csv_may_have_a_byte_order_mark_and_long_fields(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"\ufeffciting_prompt,holding_0,holding_1,label\n{'x' * 200_000},a,b,0\n\n", encoding="utf-8")
    [question] = load_split(str(path), "test").questions
    assert len(question.fields["context"]) == 200_000


# ---- splits, limits, counts ----


@pytest.mark.parametrize("name", ["validation.jsonl", "val.csv", "dev.json", "valid.jsonl"])
def test_a_split_is_found_by_file_name(tmp_path, name):
    records = LONG if name.endswith("csv") else [LEXGLUE]
    (write_csv if name.endswith("csv") else write_jsonl)(tmp_path / name, records)
    assert load_split(str(tmp_path), "validation").source == str(tmp_path / name)


def test_a_single_file_serves_any_split(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", [LEXGLUE])
    assert load_split(str(path), "test").source == str(path)


def test_a_missing_split_names_what_is_there(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [LEXGLUE])
    with pytest.raises(InputError, match=r"no file for the test split .* there is train\.jsonl"):
        load_split(str(tmp_path), "test")


def test_two_files_for_one_split_are_refused(tmp_path):
    write_jsonl(tmp_path / "val.jsonl", [LEXGLUE])
    write_jsonl(tmp_path / "dev.jsonl", [LEXGLUE])
    with pytest.raises(InputError, match=r"val\.jsonl and dev\.jsonl could both be the validation split"):
        load_split(str(tmp_path), "validation")


def test_no_such_path_and_unknown_suffix(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        load_split(str(tmp_path / "nowhere"), "test")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"rows\.parquet: its name must end in .*\.csv"):
        load_split(str(tmp_path / "rows.parquet"), "test")


def test_limit_takes_the_first_and_leaves_the_rest_unread(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [LEXGLUE, LEXGLUE])
    path.write_bytes(path.read_bytes() + b"{broken \xff\n")
    assert len(load_split(str(path), "test", limit=2).questions) == 2
    with pytest.raises(InputError, match=r"rows\.jsonl:3: "):
        load_split(str(path), "test", limit=3)


EMPTY = LEXGLUE | {"endings": ["a", " \t\n\v\f\r", "b"]}
EQUAL = LEXGLUE | {"endings": ["a", "b", "\ta "]}


def test_empty_and_equal_endings_are_counted(tmp_path):
    data = load(tmp_path, [LEXGLUE, EMPTY, EQUAL, LEXGLUE | {"endings": ["a", "\u00a0a", "\u00a0"]}])
    assert (data.num_empty, data.num_equal) == (1, 1)


@pytest.mark.parametrize(("row", "what"), [(EMPTY, "candidate 1 is empty"), (EQUAL, "candidates 0 and 2 are equal")])
def test_strict_refuses_them(tmp_path, row, what):
    content = f"{json.dumps(LEXGLUE)}\n{json.dumps(row)}\n"
    assert refusal(tmp_path, content, strict=True).startswith(f"2: field 'endings': {what}")


# ---- broken rows: each message names file, line and field ----

LABEL_CASES = [3, -1, "3", "-1", "B", "", "1.0", 1.0, True, None, [1], "9" * 30, 10**30, float("nan")]
SCORE_CASES = [True, None, "high", float("nan"), float("inf"), -float("inf"), 10**400, [1], "nan", {}]
ROW_CASES = [
    *[(LEXGLUE, {"label": label}, "label") for label in LABEL_CASES],
    *[(MMLU, {"answer": answer}, "answer") for answer in (2, "C", "a", "AB", "\u0661", False, None)],
    *[(GRADED, {"scores": [1, score, 2]}, "scores") for score in SCORE_CASES],
    *[(LONG[0], {"score": score}, "score") for score in SCORE_CASES],
    *[(GRADED, {"scores": scores}, "scores") for scores in ([1, 2], [1, 2, 3, 4], "123", None, 1)],
    *[
        (LEXGLUE, {"endings": endings}, "endings")
        for endings in ([], ["a"], "abc", None, {"a": 1}, ["a", 1], ["a", None])
    ],
    *[(MMLU, {"choices": choices}, "choices") for choices in (["a"], "ab")],
    *[(GRADED, {"responses": responses}, "responses") for responses in (["a"], [["a"], "b", "c"])],
    *[(LONG[0], {"response": response}, "response") for response in (None, ["a"])],
    *[(LEXGLUE, {"context": context}, "context") for context in (None, 1, ["a"])],
    *[(MMLU, {"question": None}, "question"), (GRADED, {"prompt": 1}, "prompt"), (LONG[0], {"prompt": None}, "prompt")],
    *[
        (PREFERENCE, {column: broken}, column)
        for column in ("prompt", "chosen", "rejected")
        for broken in (None, 1, {}, [], [1], [[]], [{}], ["a", {}], [GOOD, "a"], [{"role": "user"}], [{"content": "a"}])
    ],
    *[
        (PREFERENCE, {column: [GOOD | broken]}, column)
        for column in ("prompt", "chosen", "rejected")
        for broken in ({"role": None}, {"content": None}, {"content": [{"type": "text", "text": "a"}]})
    ],
    *[(PREFERENCE, {"rejected": rejected}, "rejected") for rejected in (["a", None], ["a", [1]], [[BAD], []])],
    *[(PREFERENCE, {column: ["a"]}, column) for column in ("prompt", "chosen")],
    *[(LEXGLUE, {"id": bad}, "id") for bad in (True, 1.5, ["a"], "")],
]


@pytest.mark.parametrize(("good", "change", "field"), ROW_CASES)
def test_a_broken_value_is_refused(tmp_path, good, change, field):
    content = f"{json.dumps(good)}\n\n{json.dumps(good | change)}\n"
    assert refusal(tmp_path, content).startswith(f"3: field '{field}': ")


@pytest.mark.parametrize("good", [LEXGLUE, MMLU, GRADED, LONG[0], PREFERENCE])
def test_a_missing_field_is_refused_in_any_row(tmp_path, good):
    for field in good:
        short = json.dumps({name: value for name, value in good.items() if name != field})
        assert refusal(tmp_path, f"{short}\n").startswith(f"1: field '{field}': is missing")
        assert refusal(tmp_path, f"{json.dumps(good)}\n{short}\n").startswith(f"2: field '{field}': is missing")


def test_a_gap_or_a_single_one_among_the_holdings_is_refused(tmp_path):
    gap = {"citing_prompt": "c", "holding_0": "a", "holding_1": "b", "holding_3": "d", "label": 0}
    assert refusal(tmp_path, json.dumps(gap)).startswith("1: field 'holding_2': is missing")
    single = {"citing_prompt": "c", "holding_0": "a", "label": 0}
    assert refusal(tmp_path, json.dumps(single)).startswith("1: field 'holding_0': 1 candidates")


def test_a_prompt_with_one_response_is_refused(tmp_path):
    content = "".join(json.dumps(row) + "\n" for row in LONG[:3])
    assert refusal(tmp_path, content).startswith("2: field 'response': ")


def test_an_id_that_stands_twice_is_refused(tmp_path):
    content = f"{json.dumps(LEXGLUE | {'id': 'x'})}\n{json.dumps(LEXGLUE | {'id': 'x'})}\n"
    assert refusal(tmp_path, content) == f"2: field 'id': 'x' stands already at {tmp_path / 'rows.jsonl'}:1"


def test_unknown_columns_are_listed_with_the_forms(tmp_path):
    message = refusal(tmp_path, json.dumps({"text": "a", "labels": [1]}))
    assert message.startswith("1: fields 'text', 'labels' are of no recognised form")
    for form in ("context, endings, label", "citing_prompt, holding_0", "question, choices, answer"):
        assert form in message
    for form in ("prompt, responses, scores", "prompt, response, score", "prompt, chosen, rejected"):
        assert form in message


SURROGATES = [r'"\ud800"', r'"a\uDFFFb"', r'"\udc00\ud800"', r'"\ud800A"']
TEXT = '{"context": "c", "endings": ["a", %s], "label": 0}'


@pytest.mark.parametrize("text", SURROGATES)
def test_a_lone_surrogate_is_refused(tmp_path, text):
    assert refusal(tmp_path, f"{json.dumps(LEXGLUE)}\n{TEXT % text}").startswith("2: field 'endings': holds half of")


def test_a_lone_surrogate_in_a_name_is_refused(tmp_path):
    assert refusal(tmp_path, json.dumps(LEXGLUE | {"\ud800": 1})).startswith(r"1: field '\ud800': holds half of")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"context": "c",, }', "column 17: broken JSON"),
        (b'{"context": "c"', "column 16: broken JSON"),
        (b'{"context": "c\tc"}', "column 15: broken JSON"),
        (b"{'context': 1}", "column 2: broken JSON"),
        (b"[1, 2]", "each line must be one JSON object, this is a list"),
        (b'"context"', "each line must be one JSON object, this is a str"),
        (b"null", "each line must be one JSON object, this is a NoneType"),
        (b"[" * 100_000, "JSON that cannot be read"),
        (b'{"label": ' + b"9" * 5000 + b"}", "JSON that cannot be read"),
        (b'{"context": "caf\xe9"}', "byte 17 of the line is not UTF-8"),
        (b'{"context": "\xed\xa0\x80"}', "byte 14 of the line is not UTF-8"),
    ],
)
def test_a_line_that_is_no_json_object_is_refused(tmp_path, line, what):
    assert refusal(tmp_path, json.dumps(LEXGLUE).encode() + b"\n" + line + b"\n").startswith(f"2: {what}")


HEADER = "citing_prompt,holding_0,holding_1,label\n"


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ('"a\nb",c,d,0\ne,f,g\n', "4: field 'label': is missing; the row has 3 columns, the header 4"),
        ('"a\nb",c,d,0\ne,f,g,0,h\n', "4: columns after field 'label': the row has 5, the header 4"),
        ('"a\nb",c,d,0\ne,f,g,2\n', "4: field 'label': '2' names none of the 2 candidates"),
        ("a,b,c,\n", "2: field 'label': '' is not an integer"),
        ('a,b,c,0\n"d,e,f,0\n\ng,h,i,0\n', "3: broken csv row (unexpected end of data)"),
        ('a,"b"b,c,0\n', "2: broken csv row"),
        (b'a,b,c,0\n"d\nd\xff",e,f,0\n', "4: byte 2 of the line is not UTF-8"),
    ],
)
def test_a_broken_csv_row_is_refused(tmp_path, rows, what):
    content = HEADER.encode() + (rows if isinstance(rows, bytes) else rows.encode())
    assert refusal(tmp_path, content, "rows.csv").startswith(what)


def test_csv_headers_that_cannot_be_used_are_refused(tmp_path):
    assert refusal(tmp_path, "label,context,label\n0,c,1\n", "rows.csv").startswith(
        "1: field 'label': the header names"
    )
    message = refusal(tmp_path, "context,endings,label\nc,\"['a', 'b']\",0\n", "rows.csv")
    assert message.startswith("2: field 'endings': ") and "holding_0, holding_1" in message
    assert "'text'" in refusal(tmp_path, "text,other\na,b\n", "rows.csv")


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", ""), ("a.jsonl", "\n \r\n"), ("a.csv", ""), ("a.csv", HEADER)]
)
def test_an_empty_file_is_refused(tmp_path, name, content):
    assert refusal(tmp_path, content, name) == " there are no questions in it"


# ---- the demo and the hub ----


def test_the_demo_is_a_folder_made_on_first_use(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "test.jsonl", [LEXGLUE])
    stub = types.SimpleNamespace(ensure_data=lambda: tmp_path)
    monkeypatch.setitem(sys.modules, "lib.demo.data", stub)
    assert load_split("demo", "test").source == str(tmp_path / "test.jsonl")


def test_files_are_read_without_the_hub_library(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [LEXGLUE])
    code = (
        f"import sys; from lib.questions.data import load_split; load_split({str(path)!r}, 'test');"
        "sys.exit(bool({'datasets', 'huggingface_hub', 'lib.demo.data'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.fixture
def hub_at(monkeypatch):
    """Point the hub's library at a local port, with no proxy between."""
    from huggingface_hub import constants

    def point(port: int) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return point


def hub_refusal() -> str:
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_split("casehold", "test")
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert message.startswith("--data casehold: the hub at ") and "\n" not in message
    assert "--data DIR_OR_FILE" in message and "--data demo" in message and "HF_HUB_OFFLINE=1" in message
    return message


def test_a_hub_that_refuses_the_connection(hub_at):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: a connection is refused
        hub_at(closed.getsockname()[1])
        assert "cannot be reached" in hub_refusal()


def test_a_hub_that_accepts_and_never_answers(hub_at, monkeypatch):
    assert 0 < 2 * hub.HUB_SECONDS <= 20
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub_at(silent.getsockname()[1])
        hub_refusal()


CACHE_SCRIPT = """
import sys
from pathlib import Path
from datasets import ClassLabel, DatasetInfo, Features, Sequence, SplitDict, SplitInfo, Value
from datasets.arrow_writer import ArrowWriter
from lib.questions.data import load_split

features = Features(
    {"context": Value("string"), "endings": Sequence(Value("string")), "label": ClassLabel(names=list("01234"))}
)
folder = Path(sys.argv[1]) / "coastalcph___lex_glue" / "case_hold" / "0.0.0" / "0123456789"
folder.mkdir(parents=True)
with ArrowWriter(path=str(folder / "lex_glue-test.arrow"), features=features) as writer:
    for label in range(3):
        writer.write({"context": f"passage {label}", "endings": list("abcde"), "label": label})
    count, size = writer.finalize()
splits = SplitDict({"test": SplitInfo("test", size, count, dataset_name="lex_glue")})
DatasetInfo(
    features=features, builder_name="parquet", dataset_name="lex_glue", config_name="case_hold", version="0.0.0",
    splits=splits,
).write_to_directory(str(folder))

whole, part = load_split("casehold", "test"), load_split("casehold", "test", limit=2)
assert [question.label for question in whole.questions] == [0, 1, 2]
assert whole.questions[:2] == part.questions and whole.sha256 == part.sha256
print(whole.questions[1])
"""


def test_a_cached_hub_copy_is_read_offline(tmp_path):
    """The cache is laid out as `datasets` does it; HF_HUB_OFFLINE=1 then needs no network."""
    script = tmp_path / "cached.py"
    script.write_text(CACHE_SCRIPT)
    cache = str(tmp_path / "cache")
    result = run_python(script, cache, cwd=ROOT, HF_DATASETS_CACHE=cache, HF_HUB_OFFLINE="1", PYTHONPATH=str(ROOT))
    assert "Question(id='1', fields={'context': 'passage 1'}, endings=('a', 'b', 'c', 'd', 'e')" in result.stdout
    assert "source='coastalcph/lex_glue case_hold test:1'" in result.stdout


# ---- real data ----


@needs_casehold
def test_real_casehold():
    splits = {split: load_split(str(CASEHOLD), split) for split in ("train", "validation", "test")}
    assert {split: len(data.questions) for split, data in splits.items()} == {
        "train": 1999,
        "validation": 200,
        "test": 793,
    }
    assert all(len(q.endings) == 5 and sum(q.rewards) == 1 for data in splits.values() for q in data.questions)
    test = splits["test"]
    assert (test.num_empty, test.num_equal) == (0, 1)
    with pytest.raises(InputError, match=rf"{os.sep}test\.jsonl:2: field 'endings': candidates \d and \d are equal"):
        load_split(str(CASEHOLD), "test", strict=True)
    assert test.questions[1].id == "test-0001"


@pytest.mark.parametrize(
    ("folder", "split", "count", "form", "num_candidates"),
    [
        ("mmlu_law", "validation", 209, "mmlu", 4),
        ("ultrafeedback_pairs", "train", 1000, "graded", 2),
        ("ultrafeedback_pairs", "test", 200, "graded", 2),
    ],
)
def test_other_real_data(folder, split, count, form, num_candidates):
    path = CASEHOLD.parent / folder
    if not path.is_dir():
        pytest.skip(f"{path} is not here")
    data = load_split(str(path), split)
    assert (len(data.questions), data.format) == (count, form)
    assert {len(question.endings) for question in data.questions} == {num_candidates}


@pytest.mark.parametrize("form", ["strings", "messages", "conversations"])
def test_real_pairs_are_the_same_questions_graded_and_as_preferences(tmp_path, form):
    path = CASEHOLD.parent / "ultrafeedback_pairs"
    if not path.is_dir():
        pytest.skip(f"{path} is not here")
    graded = [question for question in load_split(str(path), "test").questions if len(set(question.rewards)) > 1]

    def answer(prompt: str, text: str):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        return {"strings": text, "messages": messages[1:], "conversations": messages}[form]

    rows = []
    for question in graded:
        prompt, texts = question.fields["prompt"], question.endings
        pair = answer(prompt, texts[question.label]), answer(prompt, texts[1 - question.label])
        asked = prompt if form != "messages" else [{"role": "user", "content": prompt}]
        rows.append({"id": question.id, "prompt": asked, "chosen": pair[0], "rejected": pair[1]})
    pairs = load(tmp_path, rows).questions
    assert len(pairs) == len(graded) > 150
    for ours, theirs in zip(pairs, graded, strict=True):
        assert (ours.id, ours.fields) == (theirs.id, theirs.fields)
        assert ours.endings == (theirs.endings[1 - theirs.label], theirs.endings[theirs.label])
        assert ours.rewards == (0.0, 1.0)
