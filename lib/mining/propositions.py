"""Propositions that opinions cite cases for: "A lease is a conveyance. See Doe v. Roe, 1 F.3d 2 (1st Cir. 1993)."

The sentence before a citation says what the case stands for, and there are many more of them than holdings in brackets:
training questions in the form of those of `parentheticals.py`, looser in what they say.
"""

import re

from lib.mining.holdings import candidate_form
from lib.mining.opinions import PAGE_BREAK
from lib.mining.parentheticals import MIN_CHARS_BEFORE, Holding
from lib.mining.rules import FOOTNOTES, citations, gives_away, opinion_problem, passage_problem, text_problem
from lib.questions.data import MASK

# The passage, in characters before and after the mask: the citation itself stands after it.
CHARS_BEFORE, CHARS_AFTER = 700, 130
PROPOSITION = "proposition"  # begins the ids of their questions
OPENING = "holding that "  # as most holdings begin, so that the two kinds are one task

# A sentence without brackets, and after it a signal or a case's name; a full stop within it is followed by no capital,
# nor is one before it an abbreviation's ("Miller v.", "Fed.", "So.").
_SENTENCE = re.compile(
    r"(?<=[a-z)”\"][.”] )(?<! v\. )(?<!\b[A-Z][a-z]\. )(?<!\b[A-Z][a-z]{2}\. )(?<!\b[A-Z][a-z]{3}\. )"
    r"([A-Z](?:[^.()\f]|\.(?! [A-Z“])){50,400}\.[”\"]?) "
    r"(?=(?:See|Accord|Cf\.)[ ,]|(?:[A-Z][\w.’'-]*,? |(?:of|the|and|for|ex|rel\.|de|la|&) ){1,10}v\. )"
)
# Openings of what says nothing by itself: it leans on the sentence before, speaks of this court, or is a heading.
_LEANS = re.compile(
    r"(?:However|Moreover|Further(?:more)?|Indeed|But|And|Or|Nor|Yet|So|Thus|Therefore|Hence|Accordingly|Consequently|"
    r"Rather|Instead|Similarly|Likewise|Nevertheless|Nonetheless|Finally|Here|Also|Still|Then|It|They|He|She|This|That|"
    r"These|Those|Such|We|Our|I|You|Footnotes?|Discussion|[IVX]+|Consider|Today|For (?:background|example)|In \d{4}|"
    r"On [A-Z][a-z]+ \d+)\b|(?:First|Second|Third|Fourth),|[A-H] [A-Z]"
)
# What leans on it within, or tells of the case at hand, its parties and its steps: nothing that a case is cited for.
_NOUNS = (
    "action|analysis|appeal|approach|argument|burden|case|circumstance|claim|conclusion|contention|context|court|"
    "decision|definition|doctrine|evidence|exception|factor|finding|inquiry|instance|interpretation|issue|language|"
    "matter|principle|process|proposition|provision|purpose|question|reason|requirement|right|rule|section|situation|"
    "standard|statute|suit|test|theory|time|view"
)
_OF_THIS_CASE = re.compile(
    rf"\b(?:(?:this|that|these|those|such|same) (?:(?!the |an? |no |any )\w+ )?(?:{_NOUNS})s?|we|our|us|ibid|here|"
    r"above|below|too|also|other (?:words|times)|argu(?:es?|ed|ing|ments?)|contend(?:s|ed)?|assert(?:s|ed)|maintains|"
    r"complain(?:s|ed)|alleged|filed|moved|granted|denied|sued|testified|convicted|sentenced|pleaded|pled|"
    r"appealed|affirmed|reversed|vacated|remand(?:ed|ing)?|plaintiffs|defendants|petitioners?|"
    r"respondents?|appell(?:ant|ee)s?)\b|\d{5}",
    re.IGNORECASE,
)


def propositions(opinion: str) -> list[Holding]:
    """The propositions of `opinion` (text from `opinions.clean`) that a citation of a case follows at once."""
    if opinion_problem(opinion):
        return []
    return [item for match in _SENTENCE.finditer(opinion) if (item := _proposition(opinion, match))]


def _proposition(opinion: str, match: re.Match) -> Holding | None:
    raw = match[1].rstrip('.”"') if match[1].count("“") != match[1].count("”") else match[1].rstrip(".")
    before = opinion[max(0, match.start() - CHARS_BEFORE) : match.start()]
    before = FOOTNOTES.split(before.split(PAGE_BREAK)[-1])[-1]
    after = opinion[match.end() : match.end() + CHARS_AFTER].split(PAGE_BREAK)[0]
    text = OPENING + candidate_form(raw)
    if len(before) < MIN_CHARS_BEFORE or _LEANS.match(raw) or _OF_THIS_CASE.search(raw):
        return None
    if text_problem(raw) or gives_away(f"{before} {after}", text):
        return None
    if not citations(after) or passage_problem(before, citations(before), after):
        return None
    return Holding(f"{before.split(' ', 1)[1]}{MASK} {after.rsplit(' ', 1)[0]}".strip(), text)
