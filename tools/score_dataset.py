#!/usr/bin/env python
"""Score questions in many files on all machines of a Ray cluster, with the digits of ./cpp_scorer/score.

python tools/score_dataset.py questions/ --model model.onnx --output predictions       Ray is started on this machine
python tools/score_dataset.py s3://bucket/questions --model /shared/model.onnx --output s3://bucket/predictions \\
    --ray 10.0.0.1:6379 --form parquet

Questions are .jsonl and .parquet files, in the forms that the scorer takes; predictions are a file a block, in order by
name. Stopped or killed at any moment, the same command goes on: a block is there whole or not at all, and what is there
is not scored again. The exit code is 3 where some rows that were scored now are records with "error".
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.bulk.blocks import FORMS, Source, blocks, sources
from lib.bulk.places import everywhere, files_below
from lib.bulk.scoring import Job, begin, score_blocks
from lib.checksums import sha256_of_file
from lib.cli import HelpFormatter, positive_int
from lib.cluster import LOCAL, in_order, tasks_on
from lib.errors import InputError, run_script
from lib.paths import INCOMPLETE, lock
from lib.progress import progress

SOME_ROWS_AT_FAULT = 3


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("questions", help="file or folder, or its address in an object store (s3://, gs://)")
    parser.add_argument("--model", type=Path, required=True, help="model.onnx, where every machine sees it")
    parser.add_argument("--reference", type=Path, help="another, to choose by the log-ratio to it")
    parser.add_argument("--score", choices=("sum", "mean", "pmi"), default="sum", help="what chooses")
    parser.add_argument("--output", required=True, help="folder, or its address, to go on with where it exists")
    parser.add_argument("--form", choices=FORMS, default="jsonl", help="of the predictions")
    parser.add_argument("--block-rows", type=positive_int, default=1000, help="rows of a block, at most")

    ray = parser.add_argument_group("Ray", "e.g. --ray 10.0.0.1:6379 --workers 64 --threads 4").add_argument
    ray("--ray", default=LOCAL, metavar="ADDRESS", help="the cluster; local: started on this machine")
    ray("--workers", type=positive_int, help="models open at once (default: as many as the cluster's CPUs suffice for)")
    ray("--threads", type=positive_int, default=1, help="CPUs of a worker")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    model, reference = args.model.absolute(), args.reference and args.reference.absolute()
    questions, output = map(everywhere, (args.questions, args.output))
    if f"{output}/".startswith(f"{questions.rstrip('/')}/"):
        raise InputError(f"{args.output}: lies in the folder of the questions; choose another --output")
    job = Job(model, reference, args.score, output, args.form, args.threads)
    with alone_in(output), tasks_on(args.ray) as tasks:
        job.open().close()  # one line here, not a trace from each worker, where it cannot be used
        found = sources(questions)
        for source in found:
            if Path(output, source.name).is_file():
                raise InputError(f"{args.output}: holds a file {source.name}, where its predictions' folder would be")
        begin(output, settings(args, found))
        with without_halves(output):
            cut = in_order(lambda source: tasks.submit(blocks, source, args.block_rows), found, 2 * tasks.at_once)
            planned = [block for _, of_file in cut for block in of_file]
            done = files_below(output)
            todo = [block for block in planned if block.output(args.form) not in done]
            total, errors = sum(block.rows for block in planned), 0
            left = sum(block.rows for block in todo)
            with progress(total=total, initial=total - left, desc="scoring", unit="question") as bar:
                for rows, at_fault in score_blocks(todo, job, args.workers) if todo else ():
                    errors += at_fault
                    bar.update(rows)
    print(f"{args.output}: {total:,} questions in {len(planned):,} blocks, {left:,} of them scored now")
    if errors:
        print(f'{errors:,} of these are records with "error"', file=sys.stderr)
    return SOME_ROWS_AT_FAULT if errors else 0


@contextmanager
def alone_in(output: str) -> Iterator[None]:
    """Until the block ends no other command writes below a folder on a disk."""
    if "://" in output:
        yield
        return
    Path(output).mkdir(parents=True, exist_ok=True)
    held = lock(Path(output) / ".lock")
    if held is None:
        raise InputError(f"{output}: another command writes there; wait for its end, or choose another --output")
    with closing(held):
        try:
            yield
        finally:
            (Path(output) / ".lock").unlink(missing_ok=True)


@contextmanager
def without_halves(output: str) -> Iterator[None]:
    """Before and after, a folder on a disk that is this job's is free of what a killed process left half-written."""
    on_disk = Path(output) if "://" not in output else None

    def remove() -> None:
        for left in on_disk.rglob(f"*{INCOMPLETE}") if on_disk else ():
            left.unlink(missing_ok=True)

    remove()
    try:
        yield
    finally:
        remove()


def settings(args: argparse.Namespace, found: list[Source]) -> dict:
    """What must be the same where a folder is gone on with."""
    return {
        "questions": {source.name: source.num_bytes for source in found},
        "model": sha256_of_file(args.model),  # which names the weights by theirs
        "reference": args.reference and sha256_of_file(args.reference),
        "score": args.score,
        "form": args.form,
        "block_rows": args.block_rows,
    }


if __name__ == "__main__":
    run_script(main)
