"""Opinions made into running text, as the passages of CaseHOLD are."""

import html
import re
from collections import Counter
from collections.abc import Mapping

PAGE_BREAK = "\f"

_WORD = re.compile(r"[^\W\d_]+")
_SOFT_HYPHEN = re.compile(r"\xad\s*")
# A number between dashes, or alone on its line, is a page's; what stands before it may be the page's footnotes.
_PAGE_NUMBER = re.compile(r"\n[ \t]*(?:-\s?\d{1,3}\s?-|\d{1,3}(?=[ \t]*[\n\f]))|\f\s*\d{1,3}(?=[ \t]*\n)")
_NUMBERED_LINE = re.compile(r"[ \t]*(\d{1,3})[ \t]+(?=\S)")
_LINE_END_HYPHEN = re.compile(r"\b(\w+)-[ \t]*\n[ \t]*(\w+)")  # without \b, quadratic in the length of a word
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd]")
_SPACE = re.compile(r"\s*\f\s*|\s+")
_TWO_WORDS = re.compile(r"\b([^\W\d_]{2,}) (?=([a-z]{2,})\b)")
NUMBERED_RUN = 5  # lines that count on from each other are numbered; fewer may be a list
# A word is taken as torn where, joined, it is this common and one of its parts is by this factor rarer.
JOINED_COUNT = 5
JOINED_FACTOR = 2


def count_words(text: str) -> Counter[str]:
    """How often each word stands in `text`, in lower case; parts of words torn at line ends are not counted."""
    return Counter(_WORD.findall(_LINE_END_HYPHEN.sub(" ", _SOFT_HYPHEN.sub("", text)).lower()))


def clean(text: str, words: Mapping[str, int]) -> str:
    """Running text on one line: no line or page numbers, no HTML entities, torn words whole again.

    words: `count_words` of all opinions together; it tells a torn word ("transac- tion") from two. A page break stays
    as `PAGE_BREAK` between spaces, since footnotes may stand before it in the middle of a sentence.
    """
    text = _CONTROL.sub("", _SOFT_HYPHEN.sub("", html.unescape(text)))
    text = _without_line_numbers(_PAGE_NUMBER.sub("\f", text))
    text = _LINE_END_HYPHEN.sub(lambda match: _joined(match[1], match[2], words), text)
    text = _SPACE.sub(lambda match: f" {PAGE_BREAK} " if PAGE_BREAK in match[0] else " ", text).strip()
    return _TWO_WORDS.sub(lambda match: match[1] if _torn(match[1], match[2], words) else match[0], text)


def _joined(first: str, second: str, words: Mapping[str, int]) -> str:
    return first + second if words.get((first + second).lower(), 0) else f"{first}-{second}"


def _torn(first: str, second: str, words: Mapping[str, int]) -> bool:
    first = first.lower()
    whole = words.get(first + second, 0)
    return whole >= JOINED_COUNT and whole >= JOINED_FACTOR * min(words.get(first, 0), words.get(second, 0))


def _without_line_numbers(text: str) -> str:
    lines = text.split("\n")
    numbers = [int(match[1]) if (match := _NUMBERED_LINE.match(line)) else None for line in lines]
    start = 0
    for index in range(1, len(lines) + 1):
        if index < len(lines) and numbers[index] is not None and numbers[index] - 1 == numbers[index - 1]:
            continue
        if index - start >= NUMBERED_RUN:
            lines[start:index] = [_NUMBERED_LINE.sub("", line, count=1) for line in lines[start:index]]
        start = index
    return "\n".join(lines)
