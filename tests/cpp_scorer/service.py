"""The service under test: the real program, asked over real connections."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conftest import SCORE


class Service:
    def __init__(self, process: subprocess.Popen, log: Path):
        self.process, self.log, self.port = process, log, 0

    def wait_until(self, line: str) -> str:
        """The line of the log that begins so, once it is there."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for text in self.log.read_text().splitlines():
                if text.startswith(line):
                    return text
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)
        raise AssertionError(f"no {line!r} in a minute: {self.log.read_text()}")

    def connection(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method: str, path: str, body: str | bytes | None = None, **headers: str) -> tuple[int, str]:
        status, _, text = self.ask_whole(method, path, body, **headers)
        return status, text

    def ask_whole(self, method: str, path: str, body=None, **headers: str) -> tuple[int, dict, str]:
        connection = self.connection()
        with suppress(BrokenPipeError, ConnectionResetError):  # a refusal may come before the body has left
            connection.request(method, path, body, headers)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, dict(response.getheaders()), text

    def post(self, path: str, value) -> tuple[int, dict]:
        status, text = self.ask("POST", path, json.dumps(value))
        return status, json.loads(text)

    def raw(self, *pieces: bytes, pause: float = 0, shut: bool = False, timeout: float = 30) -> bytes:
        """What comes back for bytes as they are, until the other side closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as client:
            with suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces:
                    client.sendall(piece)
                    time.sleep(pause)
                if shut:
                    client.shutdown(socket.SHUT_WR)
            received = b""
            with suppress(ConnectionResetError):
                while chunk := client.recv(1 << 16):
                    received += chunk
        return received

    def metric(self, name: str) -> float:
        lines = self.ask("GET", "/metrics")[1].splitlines()
        return sum(float(line.split()[-1]) for line in lines if re.match(rf"{name}[{{ ]", line))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def serving(model: Path, folder: Path, *flags, ready=True, descriptors=None, **environment) -> Iterator[Service]:
    """A service at a port of its own, which must end with 0 unless the test has ended it. descriptors: its limit."""
    log = folder / f"service{len(list(folder.glob('service*')))}.log"
    command = [SCORE, "--model", model, "--threads", "1", "--serve", "127.0.0.1:0", *map(str, flags)]
    if descriptors:
        command = ["prlimit", f"--nofile={descriptors}:{descriptors}", *command]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*map(str, command)], stderr=file, stdin=subprocess.DEVNULL, env=os.environ | environment
        )
    service = Service(process, log)
    try:
        service.port = int(service.wait_until("listening at ").rsplit(":", 1)[1])
        if ready:
            service.wait_until("ready")
        yield service
        if process.poll() is None:
            assert service.stop() == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def jsonl(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def piped(model: Path, text: str, *flags) -> str:
    """What the program answers in a stream."""
    command = [SCORE, "--model", model, "--threads", "1", *flags]
    return subprocess.run([*map(str, command)], input=text, capture_output=True, text=True, timeout=120).stdout
