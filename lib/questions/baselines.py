"""Choosers that read no model: what an accuracy has to be compared with. The first candidate wins a tie."""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from lib.questions.data import STRIP, Question


def baselines(questions: Sequence[Question]) -> dict[str, float]:
    """Accuracy of chance, and of the choosers of `free_correct`."""
    return {"chance": chance(questions)} | {name: float(own.mean()) for name, own in free_correct(questions).items()}


def chance(questions: Sequence[Question]) -> float:
    """Expected accuracy of a uniform draw among each question's endings."""
    return math.fsum(1 / len(question.endings) for question in questions) / len(questions)


def free_correct(questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """Whether each chooser is right on each question, bools [Q]: it takes the longest ending, the shortest (in
    characters), the one with the largest share of its words in the prompt's text, and the one whose TF-IDF vector is
    nearest to the prompt's."""
    choosers = {
        "longest": lambda question: [len(ending.strip(STRIP)) for ending in question.endings],
        "shortest": lambda question: [-len(ending.strip(STRIP)) for ending in question.endings],
        "word overlap": overlaps,
        "TF-IDF": _tfidf(questions),
    }
    correct = {}
    for name, values_of in choosers.items():
        valued = [list(values_of(question)) for question in questions]
        chosen = [values.index(max(values)) for values in valued]
        correct[name] = np.array(chosen) == [question.label for question in questions]
    return correct


def overlaps(question: Question) -> list[float]:
    """The share of each ending's words that also stand in the prompt's text."""
    known = prompt_words(question)
    return [_share(words(ending), known) for ending in question.endings]


def gold_ranks(questions: Sequence[Question]) -> list[int]:
    """Place of the gold among its question's endings by word overlap: 1 where it has the largest. Equal ones share
    the better place."""
    ranks = []
    for question in questions:
        values = overlaps(question)
        ranks.append(1 + sum(value > values[question.label] for value in values))
    return ranks


def prompt_words(question: Question) -> frozenset[str]:
    """The distinct words of the question's text fields, without case."""
    return frozenset(word for text in question.fields.values() for word in words(text))


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _share(found: list[str], known: frozenset[str]) -> float:
    return sum(word in known for word in found) / len(found) if found else 0.0


def _tfidf(questions: Sequence[Question]) -> Callable[[Question], np.ndarray]:
    """Cosine between prompt and ending, with frequencies of words counted over the texts of these questions (no
    label is read)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def prompt(question: Question) -> str:
        return "\n".join(question.fields.values())

    endings = list(dict.fromkeys(ending for question in questions for ending in question.endings))
    row_of = {ending: row for row, ending in enumerate(endings)}
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")
    vectors = vectorizer.fit_transform([*endings, *map(prompt, questions)])
    place = {question.id: len(endings) + row for row, question in enumerate(questions)}

    def cosines(question: Question) -> np.ndarray:
        rows = [row_of[ending] for ending in question.endings]
        return (vectors[rows] @ vectors[place[question.id]].T).toarray()[:, 0]

    return cosines
