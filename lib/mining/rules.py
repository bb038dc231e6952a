"""Why a parenthetical, its citation or its passage makes no question: rules that each name what they found.

Opinions come out of PDF files with lines lost, footnotes between lines and brackets that never close; what a reader
would stumble over is dropped rather than repaired.
"""

import logging
import re
from contextlib import redirect_stdout
from functools import cache
from io import StringIO

from eyecite import get_citations, helpers
from eyecite.models import CitationBase, FullCaseCitation, IdCitation, ShortCaseCitation, SupraCitation

from lib.mining.holdings import candidate_form
from lib.mining.opinions import PAGE_BREAK

MIN_WORDS, MAX_WORDS = 6, 72  # of a holding; CaseHOLD's golds have 4 to 72
GIVEN_AWAY_WORDS = 8
FOOTNOTES = re.compile(r"[—_]{4,}")  # the rule between text and footnotes

# eyecite goes through all its courts for every citation, the most of the time that mining takes.
helpers.get_court_by_paren = cache(helpers.get_court_by_paren)

_CASES = (FullCaseCitation, ShortCaseCitation, IdCitation, SupraCitation)
# What may stand between a citation's first page and the parenthetical: more pages, court and year, how it was decided.
_GAP = re.compile(
    r"(?:[\s\d,*&–_-]|\b(?:at|and)\b|\bnn?\.|\([^()]{0,60}\b(?:1[789]|20)\d\d\)|"
    r"\((?:[\w. ]{1,20} Cir\.|en banc|per curiam|plurality opinion|majority opinion|slip op\.[^()]*|on rehearing)\))*"
)
_SEPARATE_OPINION = re.compile(r"\bdissent|\bconcurr|\bopinion of|\bin chambers|\bJJ?\.")
_SIGNAL = re.compile(
    r"(?:[,;]|\b(?:[Ss]ee|also|[Aa]ccord|[Cc]ompare|with|generally|[Ii]n|and|or|under|e\.g|[Cc]f)[.,]*)\s*$"
)
_CASE_NAME = re.compile(
    r"\bv(?:\.|s\.)?,? |\b(?:[Ii]n re|[Mm]atter of|[Ee]x parte|Estate of|ex rel\.|Petition of|Application of|"
    r"Cases?|The [A-Z])"
)
_CAPITALISED = re.compile(r"\b[A-Z]\w+")
_NAME_BEFORE_SUPRA = re.compile(r"[A-Z][\w.’'&-]{2,},\s*$")
# What shows that a line is lost: "create a F. 2d 608", "police badg(slip op.", "quoting Con159, 196", "§ 1, 2. 82 (D.C.
# 1989)", "See 867, 874 (1984)", and the end of a word that stands alone.
_LOST_LINE = re.compile(
    r"(?<![\d_\f]) (?:F\. ?[23]d|S\. ?Ct\.|U\. ?S\.),? (?:at |_|\d)|[a-z]\((?:slip op|[12]\d{3}\)|CA\d)|"
    r"[A-Za-z]\d{2,}, \d|\d\. \d+ \([^()]{0,30}\d{4}\)|"
    r"(?<!['’])\b(?:[a-z]+|See|Compare) \d{2,}, \d+(?:[–-]\d+)? \([^()]{0,30}\d{4}\)|"
    r" (?:ing|tion|tions|sion|ment|ments|ity|ness|ble) "
)
_NO_CITATION_BEFORE_YEAR = re.compile(r"[a-z] \((?:1[789]|20)\d\d\)")
MAX_LOST_LINES = 2  # where more are seen in an opinion, more are lost unseen
# "the entire 1 We do not deal", "871 6Enacted in": the number of a footnote whose text stands in the sentence.
_FOOTNOTE_NUMBER = re.compile(
    r"(?<!section)(?<!chapter)(?<!title)(?<!rule)(?<!part)(?<!article)(?<!note)(?<=[a-z]) \d{1,2} [A-Z][a-z]|"
    r"[,\"”] \d{1,2} [A-Z][a-z]* [a-z]| \d{1,2}[A-Z][a-z]"
)

_CITATION = re.compile(
    r"\b\d{1,4} (?:U\. ?S\.|F\. ?(?:2d|3d|Supp)|S\. ?Ct\.|WL|[A-Z][\w.]* ?[23]d)|\b[Ii]d\.|\bsupra\b"
)
_ELLIPSIS = re.compile(r"(?:\. ?){3,}")
_VERB = re.compile(r"^\w+ (?:that )?")
_DANGLING = re.compile(r"(?:\b(?:a|an|and|as|at|by|for|from|in|is|of|on|or|that|the|to|was|were|which|with)|[-–—,])$")
_MISSING = re.compile(r"\s[,.;]|\(\s*\)|\b(?:under|section|of|in) ?(?:,|and\b)|\w [b-hj-z] \w")


def citations(text: str) -> list[CitationBase]:
    """What eyecite finds in `text`, in order."""
    logging.getLogger("eyecite").setLevel(logging.CRITICAL)
    with redirect_stdout(StringIO()):  # where citations overlap it prints a line
        return get_citations(text)


def text_problem(raw: str) -> str | None:
    """Why the holding `raw`, as it stands in the opinion, is no candidate; None where it is one."""
    num_words = len(candidate_form(raw).split())
    if num_words < MIN_WORDS:
        return f"shorter than {MIN_WORDS} words"
    if num_words > MAX_WORDS:
        return f"longer than {MAX_WORDS} words"
    if PAGE_BREAK in raw or FOOTNOTES.search(raw):
        return "a page ends in it"
    if _CITATION.search(raw):
        return "it holds a citation"
    if raw.count("“") != raw.count("”") or raw.count('"') % 2 or raw.count("[") != raw.count("]"):
        return "a quotation mark or bracket lacks its partner"
    if _DANGLING.search(raw.lower()) or _MISSING.search(_ELLIPSIS.sub("", raw)):
        return "a word or letter is missing in it"
    return None


def opinion_problem(opinion: str) -> str | None:
    """Why nothing of the opinion can be used."""
    return "lines are lost in its opinion" if len(_LOST_LINE.findall(opinion)) > MAX_LOST_LINES else None


def citation_problem(before: str, found: list[CitationBase], states_holding: bool) -> str | None:
    """Why what ends where the parenthetical begins is no citation of a case's own opinion.

    before: the text up to the parenthetical. found: its citations. states_holding: whether the verb is used of cases
    alone; else "Id." may stand for a report or the record.
    """
    if not found or not isinstance(found[-1], _CASES):
        return "no citation of a case stands before it"
    gap = before[found[-1].span()[1] :]
    if _SEPARATE_OPINION.search(gap):
        return "it is of a separate opinion"
    if not _GAP.fullmatch(gap):
        return "no citation of a case stands before it"
    if isinstance(found[-1], IdCitation) and not states_holding:
        return "it may be of something else than a case"
    if isinstance(found[-1], SupraCitation) and not _NAME_BEFORE_SUPRA.search(before[: found[-1].span()[0]]):
        return "it refers to the opinion itself"
    return None


def passage_problem(before: str, found: list[CitationBase], after: str) -> str | None:
    """Why the passage cannot be read through: the text before the parenthetical, with its citations, and after it."""
    torn = _LOST_LINE.search(before) or _NO_CITATION_BEFORE_YEAR.search(before)
    if torn or any(_nameless(before, found, index) for index in range(len(found))):
        return "a part of a citation is lost in the passage"
    if _FOOTNOTE_NUMBER.search(before) or _FOOTNOTE_NUMBER.search(after):
        return "a footnote stands in the passage"
    if _stays_open(before):
        return "a bracket before it does not close"
    return None


def gives_away(passage: str, text: str) -> str | None:
    """Whether the holding `text` (in a candidate's form) can be copied from the rest of its passage."""
    padded = f" {candidate_form(passage)} "
    words = _VERB.sub("", text).split()
    size = min(GIVEN_AWAY_WORDS, len(words))
    if any(f" {' '.join(words[start : start + size])} " in padded for start in range(len(words) - size + 1)):
        return f"it stands in the passage too, or {GIVEN_AWAY_WORDS} of its words in a row"
    return None


def _nameless(text: str, found: list[CitationBase], index: int) -> bool:
    """Whether a case is cited without its name, as where a line before it is lost. Parallel citations, "cert. denied"
    and short forms after a signal need none, and at the passage's own beginning it may be cut."""
    citation = found[index]
    if not isinstance(citation, FullCaseCitation | ShortCaseCitation) or not index:
        return False
    before = text[: citation.span()[0]]
    since = text[found[index - 1].span()[1] : citation.span()[0]]
    if not _SIGNAL.search(before):
        return True
    return (
        isinstance(citation, FullCaseCitation)
        and before.rstrip().endswith(",")
        and bool(_CAPITALISED.search(re.sub(r"\([^()]*\)", "", since)))
        and not _CASE_NAME.search(since)
    )


def _stays_open(text: str) -> bool:
    """Whether a bracket of `text` stays open; `text` may begin within one."""
    depth = 0
    for bracket in re.findall(r"[()]", text):
        depth = depth + 1 if bracket == "(" else max(0, depth - 1)
    return depth > 0
