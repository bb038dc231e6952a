"""Blocks of questions scored by workers of Ray Data, each with the model open: every block written once, whole."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.begun import as_json, compare
from lib.bulk.blocks import Block, as_file, read
from lib.bulk.libscore import Libscore
from lib.bulk.places import read_file, write_file
from lib.cluster import RETRIES, resources_of_nodes
from lib.errors import InputError, first_line

RECORD = "scoring.json"


@dataclass(frozen=True)
class Job:
    """What every block is scored by, and where its predictions go. threads: of a worker."""

    model: Path
    reference: Path | None
    score: str
    output: str
    form: str
    threads: int

    def open(self) -> Libscore:
        return Libscore(self.model, self.score, self.reference, self.threads)


def begin(output: str, settings: dict) -> None:
    """Write down what a folder of predictions is made of. Raises InputError where it was begun with something else."""
    saved = read_file(output, RECORD)
    if saved is None:
        write_file(as_json(settings).encode(), output, RECORD)
        return
    compare(f"{output}/{RECORD}", saved, settings)


class BlockScorer:
    """An actor: opens the model once, then scores the blocks that it is given."""

    def __init__(self, job: Job):
        self.job, self.model = job, job.open()

    def __call__(self, batch: Mapping[str, Sequence]) -> dict[str, list[int]]:
        """A batch of one block to the numbers of its rows and of those at fault."""
        [block] = (Block(**values) for values in batch["block"])
        lines = predictions(self.model, read(block), block.first)
        write_file(as_file(lines, self.job.form), self.job.output, block.output(self.job.form))
        return {"rows": [len(lines)], "errors": [sum(map(is_error, lines))]}


def is_error(line: bytes) -> bool:
    return "error" in json.loads(line)


def predictions(model: Libscore, rows: Sequence[bytes], first: int) -> list[bytes]:
    """Of each row its prediction or error record, named as where the whole file is scored in one go: by its id, or by
    its number in the file, where `rows` begin with number `first`."""
    # The library takes a text whose first line opens an object, and does not close it, for one question.
    answers = model.score(b"\n".join([b"{}", *rows, b""])).splitlines()[1:]
    if len(answers) != len(rows):
        raise RuntimeError(f"{len(answers)} answers to {len(rows)} rows")
    named = []
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        by_number = b'{"id": "%d", ' % (number + 1)
        if answer.startswith(by_number) and own_id(row) != str(number + 1):
            answer = b'{"id": "%d", ' % (first + number) + answer.removeprefix(by_number)
        named.append(answer)
    return named


def own_id(row: bytes) -> str | None:
    try:
        found = json.loads(row)
    except (ValueError, RecursionError):
        return None
    value = found.get("id") if isinstance(found, dict) else None
    return str(value) if type(value) in (str, int) else None  # not bool, which is an int too


def score_blocks(todo: Sequence[Block], job: Job, workers: int | None) -> Iterator[tuple[int, int]]:
    """Score and write the blocks on the cluster that is joined, in any order: of each its rows, and those at fault.

    workers: at once; None: as many as the cluster's CPUs suffice for. One that is lost, with its node or without, is
    replaced, and its block scored again.
    """
    import ray.data
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # a block may take long
    room = sum(int(node["CPU"] // job.threads) for node in resources_of_nodes())
    if not room:
        raise InputError(f"--threads {job.threads}: no node of the cluster has as many CPUs")
    workers = min(workers or room, len(todo))
    given = ray.data.from_items([{"block": asdict(block)} for block in todo], override_num_blocks=len(todo))
    options = {"num_cpus": job.threads, "max_restarts": RETRIES, "max_task_retries": RETRIES}
    pool = ray.data.ActorPoolStrategy(size=workers)
    scored = given.map_batches(BlockScorer, fn_constructor_args=[job], batch_size=1, compute=pool, **options)
    try:
        for row in scored.iter_rows():
            yield int(row["rows"]), int(row["errors"])
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        raise InputError(f"a worker failed ({first_line(cause)}); the same command goes on") from None
