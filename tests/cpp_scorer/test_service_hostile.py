"""Clients that mean harm, or that are broken: each gets its status or is cut off, and the others their answers."""

import contextlib
import resource
import socket
import time

import pytest
from conftest import rows
from service import jsonl, piped, serving

pytestmark = pytest.mark.usefixtures("scorer")
TIMEOUT = 2  # seconds, of --client-timeout


@pytest.fixture(scope="module")
def service(onnx_model, tmp_path_factory):
    with serving(onnx_model, tmp_path_factory.mktemp("hostile"), "--client-timeout", TIMEOUT) as service:
        yield service


def post(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"POST /v1/score HTTP/1.1", *headers, b"", body])


def check_others(service, onnx_model, most_seconds: float = 1) -> None:
    """Somebody else is answered, and soon."""
    text = jsonl(rows(1)[0])
    begin = time.monotonic()
    assert service.ask("POST", "/v1/score", text) == (200, piped(onnx_model, text))
    assert service.ask("GET", "/healthz")[0] == 200
    assert time.monotonic() - begin < most_seconds + 1  # the stream's program starts in between


def status(received: bytes) -> int:
    return int(received.split(b" ", 2)[1]) if received else 0


ROW = jsonl(rows(1)[0]).encode()
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    {
        "no HTTP": (b"hello\r\n\r\n", 400),
        "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\r\n\r\n", 400),
        "no version": (b"GET /healthz\r\n\r\n", 400),
        "another version": (b"GET /healthz HTTP/2.0\r\n\r\n", 505),
        "a method with bytes": (b"G\x00T /healthz HTTP/1.1\r\n\r\n", 400),
        "a target without a path": (b"GET http://else/ HTTP/1.1\r\n\r\n", 400),
        "a long target": (b"GET /" + b"a" * 4000 + b" HTTP/1.1\r\n\r\n", 414),
        "a long header": (post(b"", b"X: " + b"a" * 20000), 431),
        "an endless head": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000, 431),
        "many headers": (post(b"", *[b"X: y"] * 101), 431),
        "a header without a colon": (post(b"", b"no colon"), 400),
        "a header's name with a space": (post(ROW, b"Content-Length : 5"), 400),
        "a folded header": (post(b"", b"X: y", b" z"), 400),
        "a bare line feed": (b"GET /healthz HTTP/1.1\nX: y\r\n\r\n", 400),
        "a length that is no number": (post(b"", b"Content-Length: 1x"), 400),
        "a negative length": (post(b"", b"Content-Length: -1"), 400),
        "a length of twenty digits": (post(b"", b"Content-Length: " + b"9" * 20), 400),
        "two lengths": (post(ROW, b"Content-Length: 1", b"Content-Length: 2"), 400),
        "an oversized body": (post(b"", b"Content-Length: 4194305"), 413),
        "length and chunks": (post(b"0\r\n\r\n", b"Content-Length: 5", CHUNKED), 400),
        "another coding": (post(b"", b"Transfer-Encoding: gzip, chunked"), 501),
        "a packed body": (post(b"", b"Content-Encoding: gzip", b"Content-Length: 0"), 415),
        "another expectation": (post(b"", b"Expect: miracles"), 417),
        "a chunk of no size": (post(b"\r\n", CHUNKED), 400),
        "a chunk of words": (post(b"xyz\r\n", CHUNKED), 400),
        "a negative chunk": (post(b"-5\r\nhello\r\n", CHUNKED), 400),
        "an oversized chunk": (post(b"fffffff\r\n", CHUNKED), 413),
        "an overflowing chunk": (post(b"ffffffffffffffffff\r\n", CHUNKED), 400),
        "a chunk longer than it says": (post(b"2\r\n{}x\r\n0\r\n\r\n", CHUNKED), 400),
        "a chunk's endless line": (post(b"1;" + b"x" * 1000, CHUNKED), 400),
        "endless trailers": (post(b"0\r\n" + b"X: y\r\n" * 5000, CHUNKED), 431),
        "two tokens": (post(b"", b"Authorization: a", b"Authorization: b"), 400),
    }.values(),
)
def test_a_broken_request_has_its_status_and_ends_the_connection(service, request_bytes, expected):
    received = service.raw(request_bytes, timeout=TIMEOUT / 2)
    assert status(received) == expected and b"Connection: close" in received
    assert received.count(b"HTTP/1.1 ") == 1


def test_a_client_that_closes_its_half_is_answered(service, onnx_model):
    length = b"Content-Length: %d" % len(ROW)
    received = service.raw(post(ROW, length), shut=True)
    assert received.endswith(piped(onnx_model, ROW.decode()).encode())
    early = service.raw(post(ROW[:-5], length), shut=True)
    assert status(early) == 400 and b"the request ends before its end" in early


def test_a_body_shorter_than_it_says_times_out(service, onnx_model):
    begin = time.monotonic()
    received = service.raw(post(ROW, b"Content-Length: %d" % (len(ROW) + 1)))
    assert status(received) == 408 and TIMEOUT <= time.monotonic() - begin < 3 * TIMEOUT


def test_a_body_longer_than_it_says_is_a_broken_request_after_the_answer(service, onnx_model):
    received = service.raw(post(ROW + b"more\r\n\r\n", b"Content-Length: %d" % len(ROW))).decode()
    assert piped(onnx_model, ROW.decode()) in received
    assert received.count("HTTP/1.1 ") == 2 and "HTTP/1.1 400 Bad Request" in received


def test_slow_clients_time_out_and_hold_nobody_up(service, onnx_model):
    """Slow-loris: many requests that come a byte at a time."""
    clients = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(300)]
    request, sent = post(ROW, b"Content-Length: %d" % len(ROW)), 0
    end = time.monotonic() + 2 * TIMEOUT
    checks = 0
    while time.monotonic() < end:
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(request[sent : sent + 1])
        sent += 1
        if sent % 5 == 0:
            check_others(service, onnx_model)
            checks += 1
        time.sleep(0.1)
    assert checks > 2
    for client in clients:
        client.settimeout(TIMEOUT)
        with contextlib.suppress(ConnectionResetError):  # for what it went on to send
            assert status(client.recv(4096)) == 408
        client.close()


def test_who_never_reads_is_cut_off(service, onnx_model):
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(200):
                client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 50)
        check_others(service, onnx_model)
        end = time.monotonic() + 4 * TIMEOUT
        assert service.metric("score_connections") == 2
        while service.metric("score_connections") > 1:  # that which asks
            assert time.monotonic() < end
            time.sleep(0.2)


def test_clients_that_leave_without_their_answer(service, onnx_model):
    for _ in range(200):
        client = socket.create_connection(("127.0.0.1", service.port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # close by reset
        client.sendall(post(ROW, b"Content-Length: %d" % len(ROW)))
        client.close()
    check_others(service, onnx_model)


def idle_connections(service, onnx_model, count: int) -> None:
    clients = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(count)]
    for client in clients[::2]:
        client.send(b"POST /v1/score HTTP/1.1\r\n")
    for _ in range(3):
        check_others(service, onnx_model, most_seconds=2)
    assert service.metric("score_connections") > 0.9 * count
    for client in clients:
        client.close()
    check_others(service, onnx_model, most_seconds=2)


def test_hundreds_of_connections_that_say_nothing(service, onnx_model):
    idle_connections(service, onnx_model, 400)


@pytest.mark.slow
def test_ten_thousand_connections_that_say_nothing(onnx_model, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 10500:
        pytest.skip(f"a process may have {hard} descriptors here (ulimit -Hn); 10,000 connections take 10,500")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with serving(onnx_model, tmp_path, "--client-timeout", 60) as service:
            idle_connections(service, onnx_model, 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_beyond_its_descriptors_the_one_that_waited_longest_makes_room(onnx_model, tmp_path):
    with serving(onnx_model, tmp_path, descriptors=256) as service:
        clients = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(400)]
        check_others(service, onnx_model)
        assert 100 < service.metric("score_connections") < 256
        with contextlib.suppress(ConnectionResetError):
            assert clients[0].recv(1) == b""
        for client in clients:
            client.close()


def test_requests_that_nest_or_lie_inside(service, onnx_model):
    deep = b'{"context": ' + b"[" * 100_000
    for body, what in ((deep, "nested deeper"), (b"\xff\xfe{}", "not UTF-8"), (b"{}\x00{}", "broken JSON")):
        code, text = service.ask("POST", "/v1/score", body)
        assert code == 200 and what in text
    code, text = service.ask("POST", "/v1/completions", b'{"echo": true, "prompt": ' + b"[" * 100_000)
    assert code == 422 and "nested deeper" in text
    check_others(service, onnx_model)
