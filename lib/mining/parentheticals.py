"""Holdings that opinions state of the cases they cite: "Doe v. Roe, 1 F.3d 2 (1st Cir. 1993) (holding that ...)".

A citation that eyecite knows, followed by a parenthetical that opens with such a verb, gives the holding; the text
around it, with the holding masked, the passage. What is too short, too long or broken is dropped, with the reason.
"""

import re
from dataclasses import dataclass

from lib.mining.holdings import candidate_form
from lib.mining.opinions import PAGE_BREAK
from lib.mining.rules import (
    FOOTNOTES,
    citation_problem,
    citations,
    gives_away,
    opinion_problem,
    passage_problem,
    text_problem,
)
from lib.questions.data import MASK

# With "that", the second group states a proposition; without it, it tells what the case does ("noting the split").
VERBS = ("holding", "finding", "concluding", "recognizing", "ruling", "determining", "deciding", "reaffirming")
THAT_VERBS = ("acknowledging", "emphasizing", "explaining", "noting", "observing", "reasoning", "stating")
# The size of CaseHOLD's passages, in characters before and after the mask.
CHARS_BEFORE, CHARS_AFTER = 800, 48
MIN_CHARS_BEFORE = 300
MAX_CHARS = 1000  # where no bracket has closed by then, none will

_OPENING = re.compile(rf"\((?=(?:{'|'.join(VERBS)})\b|(?:{'|'.join(THAT_VERBS)}) that\b)")
# Notes at the end of a parenthetical, on how the citing court quotes.
_NOTE = re.compile(
    r"\s*\((?:citing|quoting|quotation|internal|some|citations?|emphas[ie]s|footnotes?|alterations?|brackets?|ellips[ie]s|"
    r"omitted|original|same|per curiam|en banc)\b[^()]*(?:\([^()]*\)[^()]*)*\)|\s*\[[^\[\]]* omitted\]|"
    r"[;,] (?:internal |quotation |citations? )[^;]*omitted$"
)


@dataclass(frozen=True)
class Holding:
    """passage: with `MASK` in the holding's place. text: the holding, in the form of a candidate."""

    passage: str
    text: str

    @property
    def filled(self) -> str:
        """The passage with the holding in the mask's place."""
        return self.passage.replace(MASK, self.text)


def holdings_and_problems(opinion: str) -> tuple[list[Holding], list[str]]:
    """The holdings of `opinion` (text from `opinions.clean`), and for each parenthetical that opens with one of the
    verbs but was dropped, why."""
    problem = opinion_problem(opinion)
    found = [problem or _holding(opinion, match.start()) for match in _OPENING.finditer(opinion)]
    return [item for item in found if isinstance(item, Holding)], [item for item in found if isinstance(item, str)]


def _holding(opinion: str, start: int) -> Holding | str:
    end = _closing(opinion, start)
    if end is None:
        return "the parenthetical does not close"
    before = opinion[max(0, start - CHARS_BEFORE) : start]
    before = FOOTNOTES.split(before.split(PAGE_BREAK)[-1])[-1]
    after = opinion[end : end + CHARS_AFTER].split(PAGE_BREAK)[0]
    found = citations(before)
    raw = _NOTE.sub("", opinion[start + 1 : end]).strip().rstrip(".;,")
    problem = citation_problem(before, found, raw.startswith(VERBS)) or text_problem(raw)
    if not problem and len(before) < MIN_CHARS_BEFORE:
        problem = f"less than {MIN_CHARS_BEFORE} characters of the page stand before it"
    text = candidate_form(raw)
    problem = problem or passage_problem(before, found, after) or gives_away(f"{before} {after}", text)
    if problem:
        return problem
    # Words that the limits cut in two are left out.
    return Holding(f"{before.split(' ', 1)[1]}({MASK}{after.rsplit(' ', 1)[0]}".strip(), text)


def _closing(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for index in range(start, min(start + MAX_CHARS, len(text))):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return None
