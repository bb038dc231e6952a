"""The folder of a judge: what it was begun with, and each judgement as it came, so that a second start goes on."""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from lib.begun import begin
from lib.errors import InputError
from lib.evaluation.judging import ORDERS, VERDICTS
from lib.paths import lock
from lib.questions.fields import fail, show, string_of, value_of
from lib.questions.readers import read_rows

SETTINGS_FILE = "judge.json"
JUDGEMENTS_FILE = "judgements.jsonl"
COUNTS = ("requests", "prompt_tokens", "completion_tokens")


class Judgements:
    """`judgements.jsonl` of a folder, locked while it is open: one JSON line a pair and order.

    A line has `id`, `order` (one of `ORDERS`), `verdict` (one of `VERDICTS`, or null), `said` (the judge's last reply),
    `requests` (those that failed and were sent again too), `prompt_tokens` and `completion_tokens` (of all replies;
    null where the server does not report them).
    """

    def __init__(self, folder: Path, settings: Mapping):
        """settings: what every judgement depends on, by the flag that sets it.

        Raises InputError where another process works in the folder, where it was begun with other settings or holds
        something else, and with file, line and field for a broken judgement. A last line that was cut short, as by a
        kill, is dropped.
        """
        self.path = folder / JUDGEMENTS_FILE
        self.guard = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = lock(folder / ".lock")
        if self.lock is None:
            raise InputError(f"{folder}: another process works in it; wait for its end, or choose another --output")
        try:
            if self.path.exists() and not (folder / SETTINGS_FILE).exists():
                raise InputError(f"{self.path}: {SETTINGS_FILE} is missing beside it; choose another --output")
            begin(folder / SETTINGS_FILE, settings)
            self.file = self.path.open("ab")
            self.file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
            self.records = {(row["id"], row["order"]): row for row in self._read()}
        except BaseException:
            self.lock.close()
            raise

    def __enter__(self) -> "Judgements":
        return self

    def __exit__(self, *exception) -> None:
        self.file.close()
        self.lock.close()

    def _read(self):
        for line, row in read_rows(self.path):
            where = f"{self.path}:{line}"
            string_of(where, row, "id")
            for field, known in (("order", ORDERS), ("verdict", (*VERDICTS, None))):
                if value_of(where, row, field) not in known:
                    fail(where, field, f"{show(row[field])} is none of {', '.join(map(str, known))}; remove the line")
            for field in COUNTS:
                count = value_of(where, row, field)
                if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
                    fail(where, field, f"{show(count)} is no count; remove the line")
            yield row

    def add(self, record: dict) -> None:
        """Write a judgement; from any thread. Once this returns, a kill does not take it."""
        with self.guard:
            self.file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
            self.file.flush()
            os.fsync(self.file.fileno())
            self.records[record["id"], record["order"]] = record

    def total(self, count: str) -> int:
        """The sum of one of `COUNTS` over all judgements here, where it is known."""
        return sum(record[count] or 0 for record in self.records.values())

    @property
    def unreported(self) -> int:
        """Judgements whose tokens the server did not report in full."""
        return sum(None in (row["prompt_tokens"], row["completion_tokens"]) for row in self.records.values())
