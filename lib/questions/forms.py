"""The forms a row of questions may take, told apart by their columns, and what each says of its candidates."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from lib.errors import InputError
from lib.questions.fields import fail, finite, show, string_of, value_of
from lib.questions.preferences import preference

_HOLDING = re.compile(r"holding_[0-9]+")
_INTEGER = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True)
class Form:
    """Columns of one form. `name` stands in records; a template calls the prompt's column by `field`."""

    name: str
    field: str
    prompt: str
    candidates: str
    reward: str

    @property
    def columns(self) -> tuple[str, str, str]:
        return self.prompt, self.candidates, self.reward


FORMS = (
    Form("lexglue", "context", "context", "endings", "label"),
    Form("casehold", "context", "citing_prompt", "holding_0", "label"),
    Form("mmlu", "question", "question", "choices", "answer"),
    Form("graded", "prompt", "prompt", "responses", "scores"),
    Form("long", "prompt", "prompt", "response", "score"),
    Form("preference", "prompt", "prompt", "chosen", "rejected"),
)
# Any classification file: the candidates are class names, the same for every row, from a file of their own.
CLASSES = Form("classes", "context", "text", "--candidates", "label")


@dataclass
class Candidates:
    """One question before it has an id. where: "path:line" of its first row; row: that row, its prompt as text.

    endings and rewards: one each a candidate. label: index of the right one, or of the first highest score.
    """

    where: str
    row: dict
    endings: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    label: int = 0


def recognise(where: str, row: dict, *, classes: bool = False) -> Form:
    """The form whose columns the row has, or with `classes` that of a classification file. One column short, the error
    names it; else it lists what is recognised."""
    if classes:
        for name in (CLASSES.prompt, CLASSES.reward):
            if name not in row:
                fail(where, name, "is missing; with --candidates a row has text and label")
        return CLASSES
    missing = {form: [name for name in form.columns if name not in row] for form in FORMS}
    form = min(FORMS, key=lambda form: len(missing[form]))
    if len(missing[form]) > 1:
        raise InputError(
            f"{where}: fields {', '.join(map(repr, row)) or '(none)'} are of no recognised form; those are "
            + "; ".join(f"{form.name} ({', '.join(form.columns)})" for form in FORMS)
        )
    if form.name == "preference" and missing[form] == [form.prompt]:
        advice = "chosen and rejected begin with it: split it off, as trl.extract_prompt does"
        fail(where, form.prompt, f"is missing; {advice}")
    if missing[form]:
        fail(where, missing[form][0], f"is missing; the {form.name} form has {', '.join(form.columns)}")
    return form


def candidates(
    form: Form, rows: Iterable[tuple[str, dict]], limit: int | None, classes: Sequence[str] = ()
) -> Iterator[Candidates]:
    """The questions of `rows` (where, columns), the first `limit` of them; later ones are not looked at. `classes` are
    the candidates of the classes form.

    Raises InputError that names file, line and field for every broken row.
    """
    if form.name == "long":
        yield from _grouped(form, rows, limit)
        return
    for where, row in islice(rows, limit):
        if form is CLASSES:
            endings = list(classes)
        elif form.name == "casehold":
            endings = _holdings(where, row)
        elif form.name == "preference":
            prompt, endings = preference(where, row)
            row = row | {form.prompt: prompt}
        else:
            endings = _strings(where, row, form.candidates)
        if len(endings) < 2:
            fail(where, form.candidates, f"{len(endings)} candidates; a question needs 2 or more")
        if form.name == "graded":
            rewards = _scores(where, row, form.reward, len(endings))
            label = rewards.index(max(rewards))
        elif form.name == "preference":
            label = len(endings) - 1
            rewards = [float(index == label) for index in range(len(endings))]
        else:
            names = {name: index for index, name in enumerate(classes)}
            label = _label(where, row, form.reward, len(endings), letters=form.name == "mmlu", names=names)
            rewards = [float(index == label) for index in range(len(endings))]
        yield Candidates(where, row, endings, rewards, label)


def text_fields(where: str, form: Form, row: dict) -> dict[str, str]:
    """What a template may name: the prompt under the form's field, and every string column that is not the answer,
    a candidate or the id."""
    own = {"id", *form.columns}
    fields = {
        name: value
        for name, value in row.items()
        if isinstance(value, str) and name not in own and not (form.name == "casehold" and _HOLDING.fullmatch(name))
    }
    return {**fields, form.field: string_of(where, row, form.prompt)}


def _grouped(form: Form, rows: Iterable[tuple[str, dict]], limit: int | None) -> Iterator[Candidates]:
    # A prompt's responses may lie anywhere in the file, so all rows are read before the first question is known.
    groups: dict[str, Candidates] = {}
    for where, row in rows:
        prompt = string_of(where, row, form.prompt)
        if prompt not in groups:
            if len(groups) == limit:
                continue
            groups[prompt] = Candidates(where, row)
        groups[prompt].endings.append(string_of(where, row, form.candidates))
        groups[prompt].rewards.append(finite(where, form.reward, value_of(where, row, form.reward)))
    for group in groups.values():
        if len(group.endings) < 2:
            fail(group.where, form.candidates, "the only one of its prompt; a question needs 2 or more")
        group.label = group.rewards.index(max(group.rewards))
        yield group


def _holdings(where: str, row: dict) -> list[str]:
    count = sum(_HOLDING.fullmatch(name) is not None for name in row)
    return [string_of(where, row, f"holding_{index}") for index in range(count)]


def _strings(where: str, row: dict, field: str) -> list[str]:
    values = value_of(where, row, field)
    if not isinstance(values, Sequence) or isinstance(values, str):
        fail(where, field, f"{show(values)} is not a list of strings (in csv use holding_0, holding_1, ...)")
    for index, value in enumerate(values):
        if not isinstance(value, str):
            fail(where, field, f"candidate {index}, {show(value)}, is not a string")
    return list(values)


def _label(where: str, row: dict, field: str, count: int, *, letters: bool, names: dict[str, int]) -> int:
    value = label = value_of(where, row, field)
    if isinstance(value, str):
        if value.strip() in names:
            label = names[value.strip()]
        elif letters and len(value) == 1 and "A" <= value <= "Z":
            label = ord(value) - ord("A")
        elif _INTEGER.fullmatch(value):
            label = int(value)
    if not isinstance(label, int) or isinstance(label, bool):
        other = " or a letter from A to Z" if letters else f" or one of the {count} class names" if names else ""
        fail(where, field, f"{show(value)} is not an integer{other}")
    if not 0 <= label < count:
        fail(where, field, f"{show(value)} names none of the {count} candidates (0 to {count - 1})")
    return label


def _scores(where: str, row: dict, field: str, count: int) -> list[float]:
    values = value_of(where, row, field)
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        fail(where, field, f"{show(values)} is not a list of {count} numbers, one a candidate")
    return [finite(where, field, value) for value in values]
