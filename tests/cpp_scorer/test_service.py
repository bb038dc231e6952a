"""The scorer over HTTP: the digits of the stream, whoever asks together with whom, and a status for whatever else."""

import json
import math
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import SCORE, rows
from service import jsonl, piped, serving

pytestmark = pytest.mark.usefixtures("scorer")
BROKEN = {"id": "broken", "context": "c", "endings": ["one"]}
LONG = {"context": "the tenant " * 400, "endings": ["affirmed", "reversed"]}


@pytest.fixture(scope="module")
def service(onnx_model, tmp_path_factory):
    with serving(onnx_model, tmp_path_factory.mktemp("service")) as service:
        yield service


def varied(count: int) -> list[dict]:
    return [row | {"context": row["context"] * (1 + k % 5)} for k, row in enumerate(rows(count))]


def test_the_bytes_are_those_of_the_stream(service, onnx_model):
    text = jsonl(*varied(12), BROKEN, *rows(4, 3, start=50), {"text": "of no form"})
    status, headers, body = service.ask_whole("POST", "/v1/score", text)
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson")
    assert body == piped(onnx_model, text)
    assert [bool(json.loads(line).get("error")) for line in body.splitlines()] == [k in (12, 17) for k in range(18)]


@pytest.mark.parametrize("score", ["mean", "pmi"])
def test_other_scores_too_and_again_from_the_cache(onnx_model, tmp_path, score):
    text = jsonl(*varied(6))
    with serving(onnx_model, tmp_path, "--score", score) as service:
        expected = piped(onnx_model, text, "--score", score)
        assert [service.ask("POST", "/v1/score", text) for _ in range(2)] == [(200, expected)] * 2


def test_one_object_may_go_over_lines(service, onnx_model):
    row = rows(1)[0]
    expected = (200, piped(onnx_model, jsonl(row)))
    assert service.ask("POST", "/v1/score", json.dumps(row, indent=2)) == expected
    first = json.dumps({"of": {}, **row})  # cut behind a brace that closes
    assert service.ask("POST", "/v1/score", first.replace("{}", "{}\n", 1)) == expected


def test_lines_of_which_the_first_is_cut_short_stay_lines(service, onnx_model):
    text = jsonl(rows(1)[0])[:-3] + "\n" + jsonl(*rows(3))
    status, answered = service.ask("POST", "/v1/score", text)
    assert (status, answered.count("\n")) == (200, 4) and answered == piped(onnx_model, text)


@pytest.mark.parametrize("flags", [(), ("--workers", 3, "--threads", 3)])
def test_many_clients_at_once_get_their_own_answers_in_their_order(onnx_model, tmp_path, flags):
    asked = [jsonl(*varied(40)[start : start + 1 + start % 3]) for start in range(36)]
    answers = iter(piped(onnx_model, "".join(asked)).splitlines(keepends=True))
    expected = ["".join(next(answers) for _ in range(text.count("\n"))) for text in asked]
    with serving(onnx_model, tmp_path, *flags) as service:
        with ThreadPoolExecutor(16) as pool:
            for _ in range(3):
                answers = list(pool.map(lambda text: service.ask("POST", "/v1/score", text), asked))
                assert answers == [(200, text) for text in expected]
        batches, scored = service.metric("score_batch_rows_count"), service.metric("score_batch_rows_sum")
        assert scored == 3 * sum(text.count("\n") for text in asked)
        assert batches < 0.8 * scored, "rows of several connections never shared a run"


def test_a_connection_serves_many_requests_even_sent_ahead(service, onnx_model):
    row = jsonl(rows(1)[0])
    request = b"POST /v1/score HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(row), row.encode())
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    received = service.raw(request * 2 + last).decode()
    assert received.count("HTTP/1.1 200 OK") == 3 and received.count(piped(onnx_model, row)) == 3


def test_a_body_in_chunks_and_one_that_waits_for_leave(service, onnx_model):
    row = jsonl(rows(1)[0]).encode()
    chunks = b"".join(b"%x;x=y\r\n%s\r\n" % (len(part), part) for part in (row[:7], row[7:30], row[30:]))
    head = b"POST /v1/score HTTP/1.1\r\nConnection: close\r\n"
    received = service.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n")
    assert received.endswith(piped(onnx_model, row.decode()).encode())
    received = service.raw(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(row), row, pause=0.1)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "what"),
    [
        ("POST", "/v1/score", "", 400, "no questions in the body"),
        ("POST", "/v1/score", " \n\n", 400, "no questions in the body"),
        ("GET", "/v1/score", None, 405, "does not take GET"),
        ("POST", "/metrics", "x", 405, "does not take POST"),
        ("GET", "/v1/else", None, 404, "nothing at this path"),
        ("POST", "/v1/completions", "{", 422, "broken JSON"),
        ("POST", "/v1/completions", "[]", 422, "not a JSON object"),
        ("POST", "/v1/completions", '{"prompt": "a"}', 422, "field 'echo': must be true"),
        ("POST", "/v1/completions", '{"prompt": "a", "echo": true, "max_tokens": 16}', 422, "field 'max_tokens'"),
        ("POST", "/v1/completions", '{"prompt": "", "echo": true}', 422, "field 'prompt': has no tokens"),
        ("POST", "/v1/completions", '{"prompt": [[1, -2]], "echo": true}', 422, "field 'prompt'"),
        ("POST", "/v1/completions", '{"prompt": [1, 100000], "echo": true}', 422, "100000 is no token's id"),
        ("POST", "/v1/completions", '{"prompt": "a", "echo": true, "stream": true}', 422, "field 'stream'"),
        ("POST", "/v1/completions", json.dumps({"prompt": [1] * 2049, "echo": True}), 422, "the 2048 tokens that the"),
        (
            "POST",
            "/v1/completions",
            json.dumps({"prompt": [[1] * 2048] * 65, "echo": True}),
            422,
            "131072 tokens togeth",
        ),
    ],
)
def test_a_bad_request_has_its_status_and_says_why(service, method, path, body, status, what):
    found, text = service.ask(method, path, body)
    error = json.loads(text)["error"]
    assert (found, error["code"]) == (status, status) and what in error["message"]


def test_limits_of_rows_and_bytes_are_exact(onnx_model, tmp_path):
    text = jsonl(*rows(3))
    flags = ("--max-rows", 3, "--max-body-bytes", len(text), "--max-row-tokens", 100)
    with serving(onnx_model, tmp_path, *flags) as service:
        assert service.ask("POST", "/v1/score", text)[0] == 200
        status, body = service.ask("POST", "/v1/score", "{}\n" * 4)
        assert status == 422 and "more than 3 rows (--max-rows)" in body
        status, body = service.ask("POST", "/v1/score", text + "\n")
        assert status == 413 and f"more than {len(text)} bytes" in body
        status, body = service.ask("POST", "/v1/completions", '{"prompt": "%s", "echo": true}' % ("a b " * 60))
        assert status == 422 and "more than 100 tokens (--max-row-tokens)" in body
        status, body = service.ask("POST", "/v1/score", jsonl({"context": "a b " * 60, "endings": ["a", "b"]}))
        assert status == 200 and "over the limit of 100 (--max-row-tokens)" in json.loads(body)["error"]


def test_a_full_queue_says_when_to_come_again_and_the_service_goes_on(onnx_model, tmp_path):
    text = jsonl(*[LONG | {"id": str(k)} for k in range(8)])
    with serving(onnx_model, tmp_path, "--queue-rows", 8, "--max-rows", 8) as service:
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda _: service.ask_whole("POST", "/v1/score", text), range(24)))
        refused = [headers for status, headers, _ in found if status == 429]
        assert refused and all(headers["Retry-After"] == "1" for headers in refused)
        assert {status for status, _, _ in found} == {200, 429}
        assert {body for status, _, body in found if status == 200} == {piped(onnx_model, text)}
        assert service.metric("score_queued_rows") == 0


def test_what_takes_longer_than_the_deadline_is_given_up(onnx_model, tmp_path):
    text = jsonl(*[LONG | {"id": str(k)} for k in range(512)])
    with serving(onnx_model, tmp_path, "--deadline", 1, "--batch-tokens", 1) as service:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: service.ask("POST", "/v1/score", text)[0], range(4)))
        assert 504 in found and set(found) <= {200, 429, 504}
        assert service.ask("POST", "/v1/score", jsonl(rows(1)[0]))[0] == 200
        assert service.metric("score_queued_rows") == 0


def test_health_and_readiness_before_the_model_is_there(onnx_model, tmp_path):
    with serving(onnx_model, tmp_path, ready=False) as service:
        early = [service.ask("GET", path)[0] for path in ("/healthz", "/readyz")]
        service.wait_until("ready")
        assert early[0] == 200 and early[1] in (200, 503)
        assert [service.ask("GET", path) for path in ("/healthz", "/readyz")] == [(200, "alive\n"), (200, "ready\n")]


def test_a_model_that_gives_other_answers_ends_it_with_one_line(onnx_model, tmp_path):
    folder = shutil.copytree(onnx_model.parent, tmp_path / "export")
    golden = folder / "model.golden.jsonl"
    golden.write_text(re.sub(r'"logprobs": \[-?\d+', '"logprobs": [-1', golden.read_text(), count=1))
    with serving(folder / "model.onnx", tmp_path, ready=False) as service:
        assert service.process.wait(60) == 1
        assert "model.golden.jsonl:1: candidate 0 has log-prob" in service.log.read_text().splitlines()[-1]


def test_metrics_are_prometheus_text_and_count(onnx_model, tmp_path):
    with serving(onnx_model, tmp_path) as service:
        service.ask("POST", "/v1/score", jsonl(*rows(3), BROKEN))
        service.ask("GET", "/nothing")
        text = service.ask("GET", "/metrics")[1]
        sample = re.compile(r'[a-z_]+(\{[a-z0-9_]+="[^"]*"(,[a-z0-9_]+="[^"]*")*\})? [-+0-9.e]+')
        assert all(line.startswith("# ") or sample.fullmatch(line) for line in text.splitlines())
        for name, value in {"score_rows_total": 4, "score_row_errors_total": 1, "score_batch_rows_sum": 3}.items():
            assert service.metric(name) == value
        assert 'score_requests_total{path="/v1/score",code="200"} 1\n' in text
        assert 'score_requests_total{path="other",code="404"} 1\n' in text
        assert service.metric("score_request_seconds_count") == 1, "those that were scored alone"
        assert re.search(r'score_model_info\{sha256="[0-9a-f]{64}",score="sum"\} 1', text)
        answers = map(json.loads, service.ask("POST", "/v1/score", jsonl(*rows(3)))[1].splitlines())
        prompts = service.metric("score_tokens_total") / 2 - sum(sum(answer["tokens"]) - 5 for answer in answers)
        assert 3 < prompts < 3 * 60, "tokens are those of prompts and endings, less each ending's last"


def test_models_name_the_model(service):
    status, text = service.ask("GET", "/v1/models")
    (model,) = json.loads(text)["data"]
    assert status == 200 and re.fullmatch("[0-9a-f]{64}", model["id"]) and model["object"] == "model"


# ---- completions: every token's log-prob ----


def logprobs(answer: dict) -> list[list[float]]:
    return [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]]


def test_completions_add_up_to_the_scores(service, tokenizer, onnx_model):
    """The endings of a question, each behind the prompt, have the log-probs that the question has."""
    row = rows(1)[0]
    scored = json.loads(piped(onnx_model, jsonl(row)))
    prompt = tokenizer.encode(row["context"])
    end = tokenizer.eos_token_id
    sequences = [prompt + tokenizer.encode(" " + ending) + [end] for ending in row["endings"]]
    request = {"prompt": sequences, "echo": True, "logprobs": 1, "max_tokens": 0}
    status, answer = service.post("/v1/completions", request)
    assert status == 200 and [choice["index"] for choice in answer["choices"]] == list(range(5))
    sums = [sum(values[len(prompt) :]) for values in logprobs(answer)]
    assert sums == pytest.approx(scored["logprobs"], abs=1e-3)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, sequences))


def test_a_prompts_log_probs_do_not_depend_on_what_is_asked_with_it(service, tokenizer):
    texts = [rows(1)[0]["context"] + " " + ending for ending in rows(1)[0]["endings"]] + ["an agent", "an agent", "a"]
    ids = [tokenizer.encode(text) for text in texts]

    def ask(prompt) -> list[list[float]]:
        status, answer = service.post("/v1/completions", {"prompt": prompt, "echo": True, "logprobs": 0})
        assert status == 200
        return logprobs(answer)

    together = ask(ids)
    assert ask(texts) == together
    for sequence, values in zip(ids, together, strict=True):
        (alone,) = ask(sequence)
        assert len(alone) == len(sequence) and alone[0] is None
        assert values[1:] == pytest.approx(alone[1:], abs=1e-4)


def test_max_tokens_1_adds_an_empty_token_and_alternatives_are_never_too_sure(service):
    request = {"prompt": "In case 1 we ask", "echo": True, "logprobs": 1, "max_tokens": 1}
    choice = service.post("/v1/completions", request)[1]["choices"][0]
    found = choice["logprobs"]
    assert choice["text"] == request["prompt"] and found["tokens"][-1] == "" and found["token_logprobs"][-1] is None
    found = [found[name][1:-1] for name in ("tokens", "token_logprobs", "top_logprobs")]
    for token, value, top in zip(*found, strict=True):
        assert top[token] == value and sum(map(math.exp, top.values())) == pytest.approx(1)


# ---- who may ask, where, and the end ----


@pytest.mark.parametrize("source", ["file", "environment"])
def test_a_token_is_asked_for_where_there_is_one(onnx_model, tmp_path, source):
    token = "s3cret%2Fof%20bytes"  # which no part of the way decodes
    (tmp_path / "token").write_text(f"{token}\n")
    flags = ["--token-file", tmp_path / "token"] if source == "file" else []
    environment = {"SCORE_TOKEN": token} if source == "environment" else {}
    with serving(onnx_model, tmp_path, *flags, **environment) as service:
        for headers in ({}, {"Authorization": f"Bearer {token[:-1]}"}, {"Authorization": f"Basic {token}"}):
            for path in ("/v1/models", "/metrics"):
                status, answered, _ = service.ask_whole("GET", path, **headers)
                assert (status, answered["WWW-Authenticate"]) == (401, "Bearer")
            assert service.ask("POST", "/v1/score", "{}", **headers)[0] == 401
        assert service.ask("GET", "/v1/models", Authorization=f"Bearer {token}")[0] == 200
        assert [service.ask("GET", path)[0] for path in ("/", "/healthz", "/readyz")] == [200] * 3


@pytest.mark.parametrize(
    ("flags", "code", "what"),
    [
        (("--serve", "8080"), 2, "--serve takes HOST:PORT, say 127.0.0.1:8080, not '8080'"),
        (("--serve", "127.0.0.1:66000"), 2, "--serve takes HOST:PORT"),
        (("--serve", "127.0.0.1:0", "--workers", "0"), 2, "--workers takes a number from 1"),
        (("--serve", "127.0.0.1:0", "--max-rows", "9", "--queue-rows", "8"), 2, "--max-rows is more than --queue-rows"),
        (("--serve", "127.0.0.1:0", "--output", "o.jsonl"), 2, "--serve goes with none of --input, --output"),
        (("--workers", "2"), 2, "--workers goes with --serve"),
        (("--serve", "256.0.0.1:0"), 1, "--serve 256.0.0.1:0: "),
        (("--serve", "127.0.0.1:0", "--token-file", "none"), 1, "none: holds no token"),
        (("--serve", "127.0.0.1:0", "--token-file", ""), 2, "--token-file needs a value"),
        (("--serve", "127.0.0.1:0", "--max-body-bytes", "134217729"), 2, "--max-body-bytes takes a number from 1"),
        (("--serve", "127.0.0.1:0", "--model", "none.onnx"), 1, "none.onnx: cannot be"),
    ],
)
def test_a_service_that_cannot_be_says_why(onnx_model, flags, code, what):
    command = [SCORE, "--model", onnx_model, *flags]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    last = result.stderr.splitlines()[-1]
    assert result.returncode == code and last.startswith("error: ") and what in last, result.stderr


def test_a_port_that_is_taken_is_named(service, onnx_model):
    command = [SCORE, "--model", onnx_model, "--serve", f"127.0.0.1:{service.port}"]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "cannot be listened at (Address already in use)" in result.stderr


def test_sigterm_under_load_answers_every_request_that_was_taken(onnx_model, tmp_path):
    text = jsonl(*varied(4))
    expected = piped(onnx_model, text)
    answered, lost, refused = [], [], []
    with serving(onnx_model, tmp_path) as service:

        def client() -> None:
            connection = service.connection()
            while True:
                try:
                    connection.connect()
                except ConnectionError:
                    refused.append(1)
                    return
                try:
                    while True:
                        connection.request("POST", "/v1/score", text)
                        response = connection.getresponse()
                        answered.append((response.status, response.read().decode()))
                        if response.getheader("Connection") == "close":
                            connection.close()
                            break
                except (ConnectionError, OSError) as error:
                    lost.append(repr(error))
                    return

        clients = [threading.Thread(target=client) for _ in range(12)]
        for thread in clients:
            thread.start()
        time.sleep(1)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
        for thread in clients:
            thread.join()
    assert lost == [] and len(refused) == 12
    assert set(answered) == {(200, expected)} and len(answered) > 24


def test_while_it_ends_it_is_not_ready_and_takes_no_connections(onnx_model, tmp_path):
    text = jsonl(*[LONG | {"id": str(k)} for k in range(400)])
    with serving(onnx_model, tmp_path, "--batch-tokens", 1) as service:
        probe = service.connection()
        probe.connect()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(service.ask, "POST", "/v1/score", text)
            while service.metric("score_queued_rows") == 0:
                time.sleep(0.001)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            probe.request("GET", "/readyz")
            assert probe.getresponse().status == 503
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", service.port))
            assert asked.result()[0] == 200
        assert service.process.wait(30) == 0


def test_what_the_drain_time_is_too_short_for_is_counted(onnx_model, tmp_path):
    text = jsonl(*[LONG | {"id": str(k)} for k in range(512)])
    with serving(onnx_model, tmp_path, "--drain", 1, "--batch-tokens", 1) as service, ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(service.ask, "POST", "/v1/score", text)
        while service.metric("score_queued_rows") < 900:
            time.sleep(0.001)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 1
    assert re.search(r"^error: \d+ requests were not answered within --drain 1$", service.log.read_text(), re.MULTILINE)
