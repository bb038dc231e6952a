"""The service beside the servers that people have: questions a second and memory, on the same questions.

    python benchmarks/service_rivals.py --model model.onnx --gguf model.gguf --llama-python PYTHON \
      --folder merged --lm-eval-python PYTHON --questions casehold/test.jsonl --limit 40

model.onnx, model.gguf and the folder are of one model. PYTHON: of an environment with `llama-cpp-python[server]`, whose
server is llama.cpp's over HTTP (its own program gives no log-probs of a prompt), and of one with `lm_eval`. The server
reads one prompt a request, so that a question is a request an ending, and is asked a quarter of the questions; the
harness reads the folder by its Hugging Face backend, in one process, without HTTP. One client asks, one question after
the other; choices are by the sum of log-probs.
"""

import argparse
import contextlib
import http.client
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.cli import HelpFormatter, positive_int
from lib.errors import InputError, run_script
from lib.evaluation.scores import choose
from lib.paths import ROOT
from lib.questions.data import STRIP, Question, load_split
from lib.questions.prompt import ending_text
from service_load import serving

FEWER = 4  # the share of questions that llama.cpp is asked, and that the harness's start is told from


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="model.onnx")
    parser.add_argument("--questions", required=True, type=Path, help="JSON lines in LexGLUE form")
    parser.add_argument("--limit", type=positive_int, default=40, help="questions")
    parser.add_argument("--threads", type=positive_int, default=2, help="of each side")
    parser.add_argument("--gguf", help="the model for llama.cpp")
    parser.add_argument("--llama-python", help="Python that has llama-cpp-python[server]")
    parser.add_argument("--folder", type=Path, help="the model for the harness, in Hugging Face's layout")
    parser.add_argument("--lm-eval-python", help="Python that has lm_eval")
    args = parser.parse_args(argv)
    if args.folder and args.limit < 2:
        parser.error("--folder takes the difference of two numbers of questions: --limit 2 or more")
    questions = load_split(str(args.questions), "test", limit=args.limit).questions

    print(f"{len(questions)} questions, {args.threads} threads\n")
    print("| | questions/s | of the first | memory, MB | choices of the first |\n|---|---|---|---|---|")
    first = None
    for name, seconds, choices, megabytes in measured(args, questions):
        first = first or (seconds, choices)
        same = sum(map(int.__eq__, choices, first[1]))
        figures = f"{1 / seconds:.4g} | {first[0] / seconds:.2g} | {megabytes:.0f}"
        print(f"| {name} | {figures} | {same} of {len(choices)} |", flush=True)
    return 0


def measured(args: argparse.Namespace, questions: Sequence[Question]) -> Iterator[tuple[str, float, list[int], float]]:
    """Each side's name, seconds a question, choices and megabytes, as soon as they are known."""
    with serving(args.model, ["--threads", str(args.threads)]) as (process, port):
        for name, ask in (("/v1/score", ask_score), ("/v1/completions", ask_completions)):
            yield f"service, {name}", *timed(ask, port, questions), peak_memory(process)
    if args.gguf:
        with llama_server(args) as (process, port):
            some = questions[: fewer(args.limit)]
            yield "llama.cpp's server", *timed(ask_one_by_one, port, some), peak_memory(process)
    if args.folder:
        yield "lm-evaluation-harness, Hugging Face", *harness(args)


def fewer(limit: int) -> int:
    return max(1, limit // FEWER)


def timed(ask: Callable, port: int, questions: Sequence[Question]) -> tuple[float, list[int]]:
    """Seconds a question, after one that is not counted, and what was chosen."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    ask(connection, questions[0])
    begin = time.perf_counter()
    choices = [choose(ask(connection, question)) for question in questions]
    return (time.perf_counter() - begin) / len(questions), choices


def ask_score(connection: http.client.HTTPConnection, question: Question) -> list[float]:
    return post(connection, "/v1/score", {"context": context(question), "endings": list(question.endings)})["logprobs"]


def ask_completions(connection: http.client.HTTPConnection, question: Question) -> list[float]:
    """Every ending in one request."""
    prompts = [context(question) + ending_text(ending) for ending in question.endings]
    body = {"model": "score", "prompt": prompts, "max_tokens": 0, "echo": True, "logprobs": 1}
    answer = post(connection, "/v1/completions", body)
    return [logprob(choice["logprobs"]["token_logprobs"]) for choice in answer["choices"]]


def ask_one_by_one(connection: http.client.HTTPConnection, question: Question) -> list[float]:
    values = []
    for ending in question.endings:
        prompt = context(question) + ending_text(ending)
        # It writes a token at least, which is left out.
        body = {"prompt": prompt, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        found = post(connection, "/v1/completions", body)["choices"][0]["logprobs"]
        pairs = zip(found["text_offset"], found["token_logprobs"], strict=True)
        values.append(logprob([value for offset, value in pairs if offset < len(prompt)]))
    return values


def context(question: Question) -> str:
    return question.fields["context"].rstrip(STRIP)


def post(connection: http.client.HTTPConnection, path: str, body: dict) -> dict:
    connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    if response.status != 200:
        raise InputError(f"{path}: status {response.status}: {text[:500]}")
    return json.loads(text)


def logprob(values: Sequence[float | None]) -> float:
    """Of passage and ending together: what the passage adds is the same for every ending of a question."""
    return math.fsum(value for value in values if value is not None)


@contextlib.contextmanager
def llama_server(args: argparse.Namespace) -> Iterator[tuple[subprocess.Popen, int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [args.llama_python, "-m", "llama_cpp.server", "--model", args.gguf, "--port", port, "--n_ctx", 1024]
    command += ["--logits_all", "True", "--n_threads", args.threads, "--n_threads_batch", args.threads]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None:
                raise InputError(f"llama.cpp's server has ended with {process.returncode}: {args.llama_python}")
            time.sleep(0.1)
        yield process, port
    finally:
        process.terminate()
        process.wait()


def harness(args: argparse.Namespace) -> tuple[float, list[int], float]:
    """Seconds a question, what it chose, and megabytes. Its time without its start is that of all questions less that
    of some of them."""
    (short, _, _), (long, choices, megabytes) = (run_harness(args, limit) for limit in (fewer(args.limit), args.limit))
    return (long - short) / (args.limit - fewer(args.limit)), choices, megabytes


def run_harness(args: argparse.Namespace, limit: int) -> tuple[float, list[int], float]:
    """Seconds in all, choices, megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "casehold").mkdir()
        (Path(folder) / "casehold" / "test.jsonl").symlink_to(args.questions.resolve())
        python = shutil.which(args.lm_eval_python) or args.lm_eval_python  # a name on the path, or relative to here
        command = [str(Path(python).absolute()), "-m", "lm_eval", "--model", "hf", "--tasks", "casehold"]
        command += ["--model_args", f"pretrained={args.folder.resolve()},dtype=float32", "--device", "cpu"]
        command += ["--batch_size", "5", "--limit", str(limit), "--log_samples", "--output_path", folder]
        command += ["--include_path", str(ROOT / "docs" / "lm_eval")]
        environment = {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": folder}
        begin, megabytes = time.perf_counter(), 0.0
        said = Path(folder) / "stderr"  # no pipe: nobody reads it before the end
        with said.open("w") as stderr:
            process = subprocess.Popen(
                ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        while process.poll() is None:
            with contextlib.suppress(OSError, TypeError):
                megabytes = max(megabytes, peak_memory(process))
            time.sleep(0.1)
        seconds = time.perf_counter() - begin
        if process.returncode:
            raise InputError(f"lm_eval has ended with {process.returncode}: {said.read_text()[-500:]}")
        (samples,) = Path(folder).rglob("samples_*.jsonl")
        rows = sorted(map(json.loads, samples.read_text("utf-8").split("\n")[:-1]), key=lambda row: row["doc_id"])
        choices = [choose([float(answer[0][0]) for answer in row["resps"]]) for row in rows]
    return seconds, choices, megabytes


def peak_memory(process: subprocess.Popen) -> float:
    """Resident megabytes at most, until now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


if __name__ == "__main__":
    run_script(main)
