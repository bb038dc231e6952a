"""The report of a mining run: what was read, dropped and made, and questions to read."""

import random
from collections import Counter
from collections.abc import Mapping
from statistics import mean

from lib.mining.likeness import NEAR_DUPLICATE
from lib.mining.overlap import NGRAM_WORDS
from lib.mining.propositions import PROPOSITION
from lib.questions.baselines import baselines
from lib.questions.data import Dataset

NUM_SAMPLES = 20


def mining_report(
    num_read: int, num_excluded: int, dropped: Counter[str], splits: Mapping[str, Dataset], seed: int
) -> str:
    """Markdown. num_excluded: of the opinions read. dropped: reason to the number of parentheticals it took."""
    questions = [(split, question) for split, data in splits.items() for question in data.questions]
    num_propositions = sum(question.id.startswith(PROPOSITION) for _, question in questions)
    made = len(questions) - num_propositions
    verbs = Counter(question.endings[question.label].split()[0] for _, question in questions)
    lines = [
        "# Mined questions",
        "",
        f"- opinions read: {num_read:,}",
        f"- left out, for {NGRAM_WORDS} consecutive words of a question to exclude: {num_excluded:,}",
        f"- parentheticals that open with a holding's verb: {made + dropped.total():,}",
        f"- questions made of them: {made:,}",
        *([f"- further training questions, of propositions: {num_propositions:,}"] if num_propositions else []),
        "",
        "| dropped because | parentheticals |",
        "|---|---|",
        *(f"| {reason} | {count:,} |" for reason, count in dropped.most_common()),
        "",
        "| opens with | questions |",
        "|---|---|",
        *(f"| {verb} | {count:,} |" for verb, count in verbs.most_common()),
        "",
        f"No opinion stands in two splits, nor do two whose passages share {NGRAM_WORDS} consecutive words.",
        "Distractors are holdings of other opinions of the same split; two whose TF-IDF vectors have a cosine of",
        f"{NEAR_DUPLICATE} or more count as near-duplicates and never meet in a question. The last columns are how",
        "often the longest candidate is right, the shortest, and the one with most words of the passage.",
        "",
        "| split | questions | opinions | words of a gold | longest | shortest | word overlap |",
        "|---|---|---|---|---|---|---|",
        *(_row(split, data) for split, data in splits.items()),
        "",
        f"## {min(NUM_SAMPLES, len(questions))} questions to read",
        "",
    ]
    for split, question in random.Random(seed).sample(questions, min(NUM_SAMPLES, len(questions))):
        lines += [f"### {question.id} ({split}, {question.fields['opinion']})", "", question.fields["context"], ""]
        for index, ending in enumerate(question.endings):
            lines.append(f"- **{ending}**" if index == question.label else f"- {ending}")
        lines.append("")
    return "\n".join(lines)


def _row(split: str, data: Dataset) -> str:
    chosen = baselines(data.questions)
    words = mean(len(question.endings[question.label].split()) for question in data.questions)
    opinions = len({question.fields["opinion"] for question in data.questions})
    free = " | ".join(f"{chosen[name]:.1%}" for name in ("longest", "shortest", "word overlap"))
    return f"| {split} | {len(data.questions):,} | {opinions:,} | {words:.0f} | {free} |"
