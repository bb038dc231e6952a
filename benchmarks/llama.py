"""llama.cpp's `llama-perplexity --multiple-choice` on our questions.

The source package of llama-cpp-python holds llama.cpp in vendor/llama.cpp; there:

    cmake -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_OPENSSL=OFF && cmake --build build --target llama-perplexity
    python convert_hf_to_gguf.py MODEL --outtype f32 --outfile f32.gguf     (f16, q8_0; needs sentencepiece)
"""

import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from lib.errors import InputError
from lib.questions.data import STRIP
from lib.questions.prompt import EncodedQuestion

BEGIN, END = b"acc_norm", b"Final result"  # what it prints before it scores, and after
SPARE = 64  # cells of the context beyond the longest question


def scoring_seconds(program: Path, gguf: Path, questions: Sequence[EncodedQuestion]) -> float:
    """Seconds for scoring `questions`, loading and tokenizing left out. Raises InputError where the program fails."""
    cells = max(item.num_tokens + len(item.ending_ids) for item in questions) + SPARE
    candidates = max(len(item.ending_ids) for item in questions)
    with tempfile.NamedTemporaryFile() as tasks:
        tasks.write(task_file(questions))
        tasks.flush()
        command = [program, "-m", gguf, "-bf", tasks.name, "--multiple-choice", "-t", torch.get_num_threads()]
        # One cache for all candidates, and a question as one batch.
        command += ["-kvu", "-np", candidates, "-c", cells, "-b", cells, "-ub", cells, "--no-perf"]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        stamps: dict[bytes, float] = {}
        printed = []
        for line in process.stdout:
            printed.append(line)
            stamps |= {mark: time.perf_counter() for mark in (BEGIN, END) if mark in line}
        if process.wait() or len(stamps) < 2:
            last = printed[-1].decode(errors="replace").strip() if printed else "nothing"
            raise InputError(f"{program}: scored nothing, and printed last: {last[:200]}")
    return stamps[END] - stamps[BEGIN]


def task_file(questions: Sequence[EncodedQuestion]) -> bytes:
    """Its binary form: number of tasks, where each begins, then question, answers with their labels, and none of the
    second kind of answers."""
    tasks = []
    for item in questions:
        context, endings = item.question.fields["context"].rstrip(STRIP), item.question.endings
        labels = [int(index == item.question.label) for index in range(len(endings))]
        answers = b"".join(string(ending.strip(STRIP)) for ending in endings)
        tasks.append(
            string(context) + struct.pack("<I", len(endings)) + answers + struct.pack(f"<{len(labels)}i", *labels)
            + struct.pack("<I", 0)
        )  # fmt: skip
    begin = 4 + 4 * len(tasks)
    starts = [begin + sum(map(len, tasks[:index])) for index in range(len(tasks))]
    return struct.pack(f"<{1 + len(tasks)}I", len(tasks), *starts) + b"".join(tasks)


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data
