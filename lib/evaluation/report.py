"""The report of an evaluation: report.md, figures, and one report.html that shows every question without a network."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from transformers import PreTrainedTokenizerBase

from lib.evaluation.figures import draw_evaluation
from lib.evaluation.metrics import TARGET_ACCURACY, Group, log_probabilities, margins, percent_interval, wilson_interval
from lib.evaluation.scores import Scored, score_values
from lib.evaluation.summary import Summary
from lib.paths import atomic_dir
from lib.questions.data import MASK, Dataset
from lib.questions.prompt import ending_text

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Evaluation:
    """A model's answers to the questions of `data`. scored holds token log-probs; records are its predictions by the
    chosen score; score_lines is the table of all scores, if there is one."""

    title: str
    data: Dataset
    scored: Scored
    records: Sequence[dict]
    summary: Summary
    score_lines: Sequence[str]
    tokenizer: PreTrainedTokenizerBase


def write_report(folder: Path, shown: Evaluation) -> None:
    """Write the new folder `folder`: report.html, report.md and the figures."""
    with atomic_dir(folder) as temporary:
        captions = draw_evaluation(temporary, shown.records, shown.summary.groups)
        groups = {trait: _group_rows(rows) for trait, rows in shown.summary.groups.items()}
        values = {"title": shown.title, "data": shown.data, "score_lines": shown.score_lines}
        values |= {"facts": _facts(shown.summary), "groups": groups}
        environment = _environment()
        markdown = environment.get_template("report.md.j2").render(**values, captions=captions)
        (temporary / "report.md").write_text(markdown, encoding="utf-8")
        images = {
            caption: base64.b64encode((temporary / name).read_bytes()).decode() for name, caption in captions.items()
        }
        script = (PAGE / "report.js").read_text(encoding="utf-8")
        page = environment.get_template("report.html.j2").render(
            **values,
            images=images,
            style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            # The page runs this script and nothing else, whatever stands in the data.
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            content=page_data(shown.scored, shown.records, shown.tokenizer),
        )
        (temporary / "report.html").write_text(page, encoding="utf-8")


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page_data(scored: Scored, records: Sequence[dict], tokenizer: PreTrainedTokenizerBase) -> dict:
    """What the page's browser shows. `endings[e]` lists the pieces of a distinct ending, one a token, null for the end
    token; a question names its endings by place. Numbers are rounded: they are read, not computed with."""
    places: dict[str, int] = {}
    endings: list[list[str | None]] = []
    probabilities = np.exp(log_probabilities(records))
    questions = []
    for item, record, tokens, row, margin in zip(
        scored.encoded, records, scored.token_logprobs, probabilities, margins(records), strict=True
    ):
        for ending, ids in zip(item.question.endings, item.ending_ids, strict=True):
            if ending not in places:
                places[ending] = len(endings)
                endings.append(pieces(tokenizer, ending, len(ids)))
        questions.append(
            {
                "id": item.question.id,
                "fields": list(item.question.fields.items()),
                "label": record["label"],
                "prediction": record["prediction"],
                "truncated": record["truncated"],
                "margin": round(float(margin), 4),
                "endings": [places[ending] for ending in item.question.endings],
                "logprobs": [round(value, 4) for value in record["logprobs"]],
                "values": [round(value, 4) for value in score_values(record)],
                "probabilities": [round(float(value), 5) for value in row[: len(record["logprobs"])]],
                "tokens": [[round(value, 3) for value in ending] for ending in tokens],
            }
        )
    same = len({tuple(question["endings"]) for question in questions}) == 1
    return {"score": records[0]["score"], "mask": MASK, "endings": endings, "classes": same, "questions": questions}


def pieces(tokenizer: PreTrainedTokenizerBase, ending: str, count: int) -> list[str | None]:
    """The ending's text cut into `count` pieces, one a token, which put together give the text back; a token that ends
    within a character adds nothing. The end token, where there is one, is None."""
    text = ending_text(ending)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ends = [end for _, end in offsets]
    if ends:
        ends[-1] = len(text)
    starts = [0, *ends[:-1]]
    found: list[str | None] = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    return found + [None] * (count - len(found))


def _facts(summary: Summary) -> list[tuple[str, str]]:
    """The metrics and baselines as (name, value) in words."""
    metrics, right = summary.metrics, summary.metrics.right_margin
    facts = [
        *(("warning", text) for text in summary.warnings),
        (f"accuracy ({summary.score})", f"{metrics.accuracy:.2%}, {metrics.correct} of {metrics.total}"),
        ("95 % interval, Wilson", percent_interval(metrics.wilson)),
        ("95 % interval, bootstrap", percent_interval(metrics.bootstrap)),
        ("macro F1, micro F1", f"{metrics.macro_f1:.2%}, {metrics.micro_f1:.2%}"),
        ("negative log-likelihood", f"{metrics.nll:.4f} nats"),
        ("Brier score, 0 to 2", f"{metrics.brier:.4f}"),
        ("expected calibration error", f"{metrics.ece:.4f}"),
    ]
    answered = "no margin does"
    if right:
        answered = (
            f"{right.margin:.4g}: it then answers {right.answered} questions ({right.share:.1%}), {right.accuracy:.1%} "
            f"{percent_interval(wilson_interval(right.correct, right.answered))} of them right; found on these very "
            "questions, so check it on others"
        )
    facts.append((f"margin that gives {TARGET_ACCURACY:.0%}", answered))
    return facts + [(f"baseline: {name}", f"{value:.2%}") for name, value in summary.baselines.items()]


def _group_rows(groups: Sequence[Group]) -> list[tuple[str, int, str, str]]:
    return [
        (
            group.name,
            group.total,
            f"{group.correct / group.total:.1%}",
            percent_interval(wilson_interval(group.correct, group.total)),
        )
        for group in groups
    ]
