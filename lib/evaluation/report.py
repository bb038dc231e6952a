"""The report of an evaluation: report.md, figures, and one report.html that shows the questions without a network."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from transformers import PreTrainedTokenizerBase

from lib.evaluation.figures import draw_evaluation
from lib.evaluation.metrics import TARGET_ACCURACY, Group, percent_interval, wilson_interval
from lib.evaluation.page_data import page_data
from lib.evaluation.scores import Scored
from lib.evaluation.summary import Summary, baseline_texts
from lib.paths import atomic_dir
from lib.questions.data import Dataset

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
        page = page_data(shown.scored, shown.records, shown.tokenizer)
        values = {"title": shown.title, "data": shown.data, "score_lines": shown.score_lines, "shown": page.shown}
        values |= {"facts": _facts(shown.summary), "groups": groups}
        environment = page_environment()
        markdown = environment.get_template("report.md.j2").render(**values, captions=captions)
        (temporary / "report.md").write_text(markdown, encoding="utf-8")
        images = {
            caption: base64.b64encode((temporary / name).read_bytes()).decode() for name, caption in captions.items()
        }
        script = (PAGE / "report.js").read_text(encoding="utf-8")
        rendered = environment.get_template("report.html.j2").stream(
            **values,
            images=images,
            style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            # The page runs this script and nothing else, whatever stands in the data.
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            content=page.content,
        )
        rendered.dump(str(temporary / "report.html"), encoding="utf-8")


def page_environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _facts(summary: Summary) -> list[tuple[str, str]]:
    """The metrics and baselines as (name, value) in words."""
    metrics, right = summary.metrics, summary.metrics.right_margin
    facts = [
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
    facts += [(f"baseline: {name}", text) for name, text in baseline_texts(summary).items()]
    return facts + [("warning", text) for text in summary.warnings]


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
