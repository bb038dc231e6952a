"""How the service bears load: questions a second beside the pipe, or good and hostile clients for an hour.

    python benchmarks/service_load.py load --model model.onnx --questions questions.jsonl
    python benchmarks/service_load.py soak --model model.onnx --questions questions.jsonl --seconds 3600

`load` drives it with wrk (apt-get install wrk). `soak` ends with 1 where an answer is not the pipe's, a bad request has
another status than its own, or memory has moved by more than --drift in the second half. Flags behind `--` go to the
service, and to the pipe where it takes them too.
"""

import argparse
import contextlib
import http.client
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_float, positive_int
from lib.errors import InputError, run_script

SCORE = Path(__file__).resolve().parent.parent / "cpp_scorer" / "score"
POST = """
local rows, at = {}, 0
for line in io.lines("QUESTIONS") do rows[#rows + 1] = line end
request = function()
  at = at % #rows + 1
  return wrk.format("POST", "/v1/score", nil, rows[at])
end
"""
LENGTH = b"Content-Length: 10\r\n"
# What a hostile client sends, whether it then closes its half, and the status that it must get.
HOSTILE = (
    (b"hello\r\n\r\n", False, 400),
    (b"POST /v1/score HTTP/1.1\r\n" + LENGTH + b"\r\n{}", True, 400),  # ends early
    (b"POST /v1/score HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", False, 413),
    (b"POST /v1/score HTTP/1.1\r\nContent-Length: -1\r\n\r\n", False, 400),
    (b"POST /v1/score HTTP/1.1\r\n" + LENGTH + b"Content-Length: 11\r\n\r\n", False, 400),
    (b"POST /v1/score HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", False, 400),
    (b"POST /v1/score HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", False, 413),
    (b"GET / HTTP/1.1\r\nX: " + b"y" * 20000 + b"\r\n\r\n", False, 431),
    (b"POST /v1/completions HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]", False, 422),
    (b"POST /v1/score HTTP/1.1\r\n" + LENGTH + b"\r\n{", False, 408),  # the rest never comes
)
BOTH = {"--threads", "--score", "--reference", "--batch-tokens"}
IDLE = 500  # connections that say nothing, or half a word


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("what", choices=("load", "soak"), help="a table of speed, or good and hostile clients at once")
    parser.add_argument("--model", required=True, help="model.onnx")
    parser.add_argument("--questions", required=True, type=Path, help="JSON lines with labels")
    parser.add_argument("--seconds", type=positive_float, default=20, help="of each row of the table, or of the soak")
    parser.add_argument("--connections", type=positive_int, nargs="+", default=[1, 8, 64], help="rows of the table")
    parser.add_argument("--drift", type=positive_float, default=0.02, help="of the memory in the soak's second half")
    given = sys.argv[1:] if argv is None else argv
    end = given.index("--") if "--" in given else len(given)
    args = parser.parse_args(given[:end], argparse.Namespace(flags=given[end + 1 :]))
    with serving(args.model, args.flags) as (process, port):
        return load(args, process, port) if args.what == "load" else soak(args, process, port)


@contextlib.contextmanager
def serving(model: str, flags: list[str]) -> Iterator[tuple[subprocess.Popen, int]]:
    command = [SCORE, "--model", model, "--serve", "127.0.0.1:0", *flags]
    begin = time.perf_counter()
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    port, line = 0, ""
    for line in process.stderr:
        if line.startswith("listening at "):
            port = int(line.rsplit(":", 1)[1])
        if line == "ready\n":
            break
    else:
        raise InputError(f"the service has ended: {line.strip()}")
    print(f"ready after {time.perf_counter() - begin:.2f} s")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        print(f"ended with {process.wait(60)}")


def pipe(args, questions: Path) -> subprocess.CompletedProcess:
    pairs = zip(args.flags[::2], args.flags[1::2], strict=True)
    flags = [word for pair in pairs if pair[0] in BOTH for word in pair]
    command = [SCORE, "--model", args.model, "--input", questions, *flags]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)


def memory(process: subprocess.Popen) -> float:
    """Resident megabytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def load(args, process: subprocess.Popen, port: int) -> int:
    if not shutil.which("wrk"):
        raise InputError("wrk is missing; install it (apt-get install wrk)")
    rate = re.search(r"([\d.]+) questions/s", pipe(args, args.questions).stderr)
    if not rate:
        raise InputError(f"{args.questions}: has no labels, and so the pipe says no rate")
    piped = float(rate[1])
    print(f"pipe: {piped:.1f} questions/s\n")
    print("| connections | questions/s | of the pipe | p50 ms | p99 ms |\n|---|---|---|---|---|")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(POST.replace("QUESTIONS", str(args.questions.resolve())))
        script.flush()
        for connections in args.connections:
            command = ["wrk", "-t1", f"-c{connections}", f"-d{args.seconds:.0f}s", "--latency", "-s", script.name]
            command += ["--timeout", "60s", f"http://127.0.0.1:{port}/v1/score"]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            if "Non-2xx" in text or "Socket errors" in text:
                raise InputError(f"not every request was answered:\n{text}")
            served = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
            p50, p99 = (milliseconds(re.search(rf"{share}%\s+(\S+)", text)[1]) for share in (50, 99))
            print(f"| {connections} | {served:.1f} | {served / piped:.2f} | {p50:.1f} | {p99:.1f} |", flush=True)
    print(f"\nmemory: {memory(process):.0f} MB")
    return 0


def milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


class Soak:
    def __init__(self, port: int, questions: list[str], answers: list[str], seconds: float):
        self.port, self.questions, self.answers = port, questions, answers
        self.end = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def goes_on(self) -> bool:
        return time.monotonic() < self.end and not self.faults

    def run(self, client: Callable[[int], None], seed: int) -> None:
        """One client; what ends it early is a fault of the soak."""
        try:
            client(seed)
        except Exception as error:
            self.faults.append(f"{client.__name__}: {error!r}")

    def run_good(self, seed: int) -> None:
        choose = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while self.goes_on():
            first = choose.randrange(len(self.questions))
            some = slice(first, first + choose.choice((1, 1, 1, 4, 16)))
            connection.request("POST", "/v1/score", "".join(self.questions[some]).encode())
            response = connection.getresponse()
            text = response.read().decode()
            if response.status == 429:
                time.sleep(float(response.getheader("Retry-After")))
            elif (response.status, ids_off(text)) != (200, ids_off("".join(self.answers[some]))):
                self.faults.append(f"row {first}: {response.status} {text[:200]}")
            self.counts[f"good, {response.status}"] += 1

    def run_hostile(self, seed: int) -> None:
        choose = random.Random(seed)
        while self.goes_on():
            request, shuts, expected = choose.choice(HOSTILE)
            with socket.create_connection(("127.0.0.1", self.port), timeout=60) as client:
                with contextlib.suppress(ConnectionError):
                    client.sendall(request)
                    if shuts:
                        client.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    received = client.recv(100)
                    if received.split(b" ")[1] != str(expected).encode():
                        self.faults.append(f"{request[:80]!r}: {received!r} instead of {expected}")
            self.counts[f"hostile, {expected}"] += 1

    def run_idle(self, seed: int) -> None:
        """Connections that say nothing, or a byte now and then."""
        clients: list[socket.socket] = []
        while self.goes_on():
            clients.append(socket.create_connection(("127.0.0.1", self.port), timeout=60))
            for client in clients[-20:]:
                with contextlib.suppress(OSError):
                    client.send(b"G")
            if len(clients) > IDLE:
                clients.pop(0).close()
            self.counts["idle"] += 1
            time.sleep(0.02)


def ids_off(text: str) -> str:
    """Answers without their rows' numbers, which count from the request's first."""
    return re.sub(r'^\{"id": "[^"]*"', "", text, flags=re.MULTILINE)


def soak(args, process: subprocess.Popen, port: int) -> int:
    # Rows may hold U+2028, at which str.splitlines would break them.
    questions = args.questions.read_text(encoding="utf-8").split("\n")
    answers = pipe(args, args.questions).stdout.split("\n")
    run = Soak(port, *([f"{line}\n" for line in lines if line] for lines in (questions, answers)), args.seconds)
    clients = [*[run.run_good] * 8, *[run.run_hostile] * 4, run.run_idle]
    threads = [threading.Thread(target=run.run, args=(client, seed)) for seed, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    seen = []
    while run.goes_on():
        time.sleep(min(10, args.seconds / 20))
        seen.append(memory(process))
    for thread in threads:
        thread.join()
    later = seen[len(seen) // 2 :]
    drift = (max(later) - min(later)) / statistics.mean(later)
    print(*(f"{what}: {count}" for what, count in sorted(run.counts.items())), sep="\n")
    print(f"memory: {seen[0]:.0f} MB at first, {later[0]:.0f} to {later[-1]:.0f} in the second half, moved {drift:.1%}")
    if run.faults:
        raise InputError(run.faults[0])
    if drift > args.drift:
        raise InputError(f"memory moved by {drift:.1%} in the second half, more than --drift {args.drift:g}")
    return 0


if __name__ == "__main__":
    run_script(main)
