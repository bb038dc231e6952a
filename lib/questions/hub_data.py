"""Data sets of the hub that go by a name, and their rows in the forms of forms.py. `datasets` reads them; no code of
the hub is run."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from lib.errors import InputError
from lib.hub import hub_error, require_hub
from lib.progress import BRIEF, progress

LEXGLUE, LEGALBENCH, MMLU = "coastalcph/lex_glue", "nguha/legalbench", "cais/mmlu"
ADVICE = "give your own questions with --data DIR_OR_FILE, or try --data demo"
MULTI_LABEL = ("lexglue/ecthr_a", "lexglue/ecthr_b", "lexglue/eurlex", "lexglue/unfair_tos")
MAX_ANSWERS = 20  # LegalBench's classifications have 2 to 9 distinct answers, its tasks of free text 50 and more
_TASK = re.compile(r"legalbench/([\w,-]+)")
_CHOICE = re.compile(r"choice_[0-9]+")
# What LegalBench's own prompts (base_prompt.txt of each task) take of a row: a column, and the template in which it is
# {context}; the first counts of which a row has all columns. Others could tell the answer: `slice`, `aic_is_met`.
LEGALBENCH_PROMPTS = (
    ("statute", "{context}\n{description}\n{question}"),
    ("contract", "{context}\n{question}"),
    ("contract", "{context}"),
    ("policy", "{context}\n{claim}"),
    ("text", "{context}\n{question}"),
    ("text", "{context}\n{description}"),
    ("text", "{context}\n{citation}"),
    ("company_description", "{bill_title}\n{bill_summary}\n{company_name}\n{context}"),
    ("Paragraph", "{context}"),
    ("question", "{context}"),
    ("text", "{context}"),
)


@dataclass(frozen=True)
class HubData:
    """A data set: its name here, its repository and configuration on the hub, and the splits that it has there."""

    name: str
    repo: str
    config: str
    splits: tuple[str, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class HubSplit:
    """The rows of a split in one of the forms. source: repository, configuration and split. sha256: of the rows as
    JSON. classes: the class names that are every row's candidates. template: the default one, None for the form's."""

    rows: list[dict]
    source: str
    sha256: str
    classes: tuple[str, ...] = ()
    template: str | None = None

    def located(self) -> Iterator[tuple[str, dict]]:
        """Each row with where it stands."""
        return ((f"{self.source}:{number}", row) for number, row in enumerate(self.rows))


CASEHOLD = HubData("casehold", LEXGLUE, "case_hold")
NAMED = {
    data.name: data
    for data in (
        *(HubData(f"lexglue/{config}", LEXGLUE, config) for config in ("case_hold", "ledgar", "scotus")),
        *(
            HubData(f"mmlu/{subject}", MMLU, subject, ("validation", "test"))
            for subject in ("international_law", "jurisprudence", "professional_law")
        ),
    )
}
DATA_NAMES = f"casehold, demo, {', '.join(NAMED)}, legalbench/TASK"


def hub_data(data: str) -> HubData | None:
    """The data set of this name, or None. A file or folder of the name goes before, but for `casehold`.

    Raises InputError for the tasks of LexGLUE in which a text has several labels.
    """
    if data == CASEHOLD.name:
        return CASEHOLD
    if Path(data).exists():
        return None
    if data in MULTI_LABEL:
        raise InputError(f"{data}: a text there has several labels, a question one right answer; take {DATA_NAMES}")
    if task := _TASK.fullmatch(data):
        return HubData(data, LEGALBENCH, task[1], ("train", "test"))
    return NAMED.get(data)


def read_hub(data: HubData, split: str) -> HubSplit:
    """A split of the data set. Raises InputError where it has no such split, where the hub does not serve it, and for
    a task of LegalBench that is unknown or no classification."""
    if split not in data.splits:
        there = " and ".join(data.splits)
        raise InputError(f"{data.name}: it has no {split} split, only {there}; take other questions for {split}")
    require_hub(f"--data {data.name}", data.repo, "dataset", ADVICE)
    if data.repo == LEGALBENCH:
        return _legalbench(data, split)
    rows, features = _fetch(data, split)
    classes = tuple(features["label"].names) if "text" in features else ()
    return HubSplit(rows, *_identity(data, split, rows), classes)


def _fetch(data: HubData, split: str) -> tuple[list[dict], dict]:
    """The rows as the hub has them, and the columns' types where its files say them."""
    from datasets import load_dataset

    try:
        if data.repo != LEGALBENCH:
            read = load_dataset(data.repo, data.config, split=split)
        else:  # `datasets` runs loading scripts no more, and LegalBench has one; its tables lie beside it
            table = _legalbench_table(data, split)
            read = load_dataset("csv", data_files=table, split="train", streaming=True, sep="\t", na_filter=False)
        return list(progress(read, desc=f"reading {split}", unit="row", delay=BRIEF)), read.features or {}
    except InputError:
        raise
    except Exception as error:  # the library, and those below it, raise many kinds with no common base
        raise hub_error(f"--data {data.name}", " ".join(str(error).split()), ADVICE) from None


def _legalbench_table(data: HubData, split: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return HfApi().hf_hub_download(LEGALBENCH, f"data/{data.config}/{split}.tsv", repo_type="dataset")
    except LocalEntryNotFoundError:  # offline, or out of reach
        raise
    except EntryNotFoundError:
        there = HfApi().list_repo_tree(LEGALBENCH, "data", repo_type="dataset")
        tasks = ", ".join(sorted(Path(entry.path).name for entry in there))
        raise InputError(f"{data.name}: LegalBench has no such task; there are {tasks}") from None


def _identity(data: HubData, split: str, rows: list[dict]) -> tuple[str, str]:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return f"{data.repo} {data.config} {split}", digest.hexdigest()


def _legalbench(data: HubData, split: str) -> HubSplit:
    """The rows as those of a classification, of the columns of `LEGALBENCH_PROMPTS` and `answer` alone. The classes are
    the distinct answers of both splits: a task's train split is a handful of rows. Rows with choices of their own
    (scalr) are made rows of MMLU's form."""
    tables = {
        name: [{column: str(value) for column, value in row.items()} for row in _fetch(data, name)[0]]
        for name in data.splits
    }
    rows = tables[split]
    source, sha256 = _identity(data, split, rows)
    if not rows:
        return HubSplit([], source, sha256)
    columns = rows[0].keys()
    if not all("answer" in row for table in tables.values() for row in table):
        raise InputError(f"{source}: field 'answer' is missing; there are {', '.join(columns)}")
    choices = sorted(filter(_CHOICE.fullmatch, columns), key=lambda column: int(column.removeprefix("choice_")))
    if choices:
        made = [_of(row, "question", "answer") | {"choices": [row[name] for name in choices]} for row in rows]
        return HubSplit(made, source, sha256)
    answers = sorted({row["answer"].strip() for table in tables.values() for row in table})
    if not 2 <= len(answers) <= MAX_ANSWERS or any(answer.startswith("[") for answer in answers):
        raise InputError(
            f"{data.name}: no classification: it has {len(answers)} distinct answers, such as {answers[0]!r:.60}; "
            f"a question needs one right answer out of 2 to {MAX_ANSWERS}"
        )
    for main, template in LEGALBENCH_PROMPTS:
        others = {name for _, name, _, _ in Formatter().parse(template) if name} - {"context"}
        if {main, *others} <= columns:
            labels = (answers.index(row["answer"].strip()) for row in rows)
            made = [
                _of(row, *others) | {"text": row[main], "label": label} for row, label in zip(rows, labels, strict=True)
            ]
            return HubSplit(made, source, sha256, tuple(answers), template)
    known = ", ".join(dict.fromkeys(main for main, _ in LEGALBENCH_PROMPTS))
    raise InputError(f"{source}: none of its columns ({', '.join(columns)}) is known for a prompt; those are {known}")


def _of(row: dict, *columns: str) -> dict:
    return {column: row[column] for column in columns}
