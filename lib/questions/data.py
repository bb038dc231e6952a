"""Questions: what they are, and where they come from (the hub, the demo, or files of one's own)."""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from lib.errors import InputError
from lib.progress import BRIEF, progress
from lib.questions.fields import fail
from lib.questions.forms import Candidates, Form, candidates, recognise, text_fields
from lib.questions.hub_data import HubSplit, hub_data, read_hub
from lib.questions.readers import find_split, has_own_split, read_classes, read_rows

STRIP = " \t\n\v\f\r"  # the white space that prompts and endings are stripped of; nothing else of Unicode
MASK = "<HOLDING>"  # stands in CaseHOLD's passages where the cited holding was


@dataclass(frozen=True)
class Question:
    """A prompt's fields, its candidate endings and a reward for each.

    id: as given, else the row number from 0. fields: string columns a template may name. endings: 2 or more, as given.
    rewards: one a candidate, one-hot for labelled data and the scores for graded data. label: index of the right
    ending, for graded data the first of the highest reward. source: "path:line", or the row number for hub data.
    generated: so many of the last endings were written by a model; they are no part of the mean reward.
    """

    id: str
    fields: Mapping[str, str]
    endings: tuple[str, ...]
    rewards: tuple[float, ...]
    label: int
    source: str
    generated: int = 0


@dataclass(frozen=True)
class Dataset:
    """The questions of one split and where they come from.

    default_template: "{context}", "{question}" or "{prompt}", or of more fields for some data of the hub. format: name
    of the form in forms.py. source: the file, or the hub's name. sha256: of the file's bytes, or of the hub's rows as
    JSON, all of the split whatever the limit (and of the class names).
    """

    questions: list[Question]
    default_template: str
    format: str
    source: str
    sha256: str

    @property
    def num_empty(self) -> int:
        """Questions with an empty ending, once stripped of `STRIP`."""
        return sum("" in _stripped(question) for question in self.questions)

    @property
    def num_equal(self) -> int:
        """Questions with two equal endings, once stripped of `STRIP`."""
        return sum(len(set(_stripped(question))) < len(question.endings) for question in self.questions)


def load_split(
    data: str, split: str, *, limit: int | None = None, strict: bool = False, candidates_file: str | None = None
) -> Dataset:
    """Load the first `limit` questions of a split: "train", "validation" or "test".

    data: one of `DATA_NAMES` (from the hub; "demo" is made on first use), a folder with a file for each split, or a
    single file that serves any split (.jsonl, .json or .csv). Its form is recognised by its columns.
    candidates_file: class names, one a line, that are the candidates of every row of a classification (its columns
    `text` and `label`: a class name, or its place from 0), in the place of those that the hub's data names.

    Raises InputError with file, line and field for any broken row among those questions; with `strict` also for
    empty and equal endings.
    """
    hub = HubSplit([], "", "")
    if named := hub_data(data):
        hub = read_hub(named, split)
        rows, source, sha256 = hub.located(), hub.source, hub.sha256
    else:
        if data == "demo":
            from lib.demo.data import ensure_data

            data = str(ensure_data())
        path = find_split(data, split)
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        read = progress(read_rows(path), desc=f"reading {path.name}", unit="row", delay=BRIEF)
        rows, source = ((f"{path}:{line}", row) for line, row in read), str(path)

    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{source}: there are no questions in it")
    classes = hub.classes
    if candidates_file:
        given = read_classes(Path(candidates_file))
        if classes and len(given) != len(classes):
            raise InputError(f"{candidates_file}: {len(given)} class names, {source} has {len(classes)}")
        classes = given
    if classes:
        sha256 = hashlib.sha256(json.dumps([sha256, classes]).encode()).hexdigest()
    form = recognise(*first, classes=bool(classes))
    questions = _questions(form, candidates(form, chain([first], rows), limit, classes))
    if strict:
        _refuse_flaws(form, questions)
    return Dataset(
        questions,
        default_template=hub.template or f"{{{form.field}}}",
        format=form.name,
        source=source,
        sha256=sha256,
    )


def load_train_and_validation(data: str, validation_share: float | None, **how) -> tuple[Dataset, Dataset | None]:
    """The train split and the validation split, each as `load_split` gives it. With a share that much of train, the
    same whatever else is asked for, is validation instead; without, and without a split of its own, there is none.

    Raises InputError where the share leaves one of the two without a question.
    """
    train = load_split(data, "train", **how)
    if not validation_share:
        return train, load_split(data, "validation", **how) if has_validation(data) else None
    count = round(validation_share * len(train.questions))
    if not 0 < count < len(train.questions):
        raise InputError(
            f"--validation-share {validation_share:g} is {count} of the {len(train.questions)} questions of "
            f"{train.source}; validation and train need one each"
        )
    chosen = set(random.Random(0).sample(range(len(train.questions)), count))
    parts = [], []
    for number, question in enumerate(train.questions):
        parts[number in chosen].append(question)
    source = f"{train.source} ({validation_share:g} of it)"
    sha256 = hashlib.sha256(f"{train.sha256} {validation_share}".encode()).hexdigest()
    return replace(train, questions=parts[0]), replace(train, questions=parts[1], source=source, sha256=sha256)


def has_validation(data: str) -> bool:
    """Whether `data` has validation questions that are not the test questions too."""
    if named := hub_data(data):
        return "validation" in named.splits
    return data == "demo" or has_own_split(data, "validation")


def _questions(form: Form, parsed: Iterable[Candidates]) -> list[Question]:
    questions: dict[str, Question] = {}
    for number, item in enumerate(parsed):
        question_id = item.row.get("id")
        if question_id is None:
            question_id = number
        if isinstance(question_id, bool) or not isinstance(question_id, str | int) or question_id == "":
            fail(item.where, "id", f"{question_id!r:.60} is not a string or an integer")
        question_id = str(question_id)
        if question_id in questions:
            fail(item.where, "id", f"{question_id!r} stands already at {questions[question_id].source}")
        questions[question_id] = Question(
            question_id,
            text_fields(item.where, form, item.row),
            tuple(item.endings),
            tuple(item.rewards),
            item.label,
            item.where,
        )
    return list(questions.values())


def _stripped(question: Question) -> list[str]:
    return [ending.strip(STRIP) for ending in question.endings]


def _refuse_flaws(form: Form, questions: Iterable[Question]) -> None:
    for question in questions:
        texts = _stripped(question)
        if "" in texts:
            advice = "is empty; leave out --strict to keep it"
            fail(question.source, form.candidates, f"candidate {texts.index('')} {advice}")
        if len(set(texts)) < len(texts):
            second = next(index for index, text in enumerate(texts) if text in texts[:index])
            both = f"candidates {texts.index(texts[second])} and {second}"
            fail(question.source, form.candidates, f"{both} are equal; leave out --strict to keep them")
