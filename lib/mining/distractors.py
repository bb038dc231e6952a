"""Holdings become questions: split by opinion, each with the distractors that are most like its passage and gold."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from lib.mining.overlap import word_ngrams
from lib.mining.parentheticals import THAT_VERBS, VERBS, Holding
from lib.questions.data import MASK

NUM_DISTRACTORS = 4
# Cosine of TF-IDF vectors from which two holdings say the same, or too nearly so to tell right from wrong.
NEAR_DUPLICATE = 0.5
MAX_USES = 12  # of one holding as distractor: one met more often would be known as wrong
# At most this many times as long or as short as the gold, in words: else its length would tell the gold apart.


@dataclass(frozen=True)
class Mined:
    """A holding and the opinion it is from: its place in the input, from 0, and the name a reader finds it by."""

    holding: Holding
    opinion: int
    source: str


def split_by_opinion(mined: Sequence[Mined], shares: dict[str, float], seed: int) -> dict[str, list[Mined]]:
    """The holdings of each split, in their order. Opinions are drawn until a split has its share of the holdings; those
    whose passages share 13 consecutive words (two versions of one, a passage copied) stay together.

    shares: split to its share; the first split takes what the others leave.
    """
    family = list(range(max((item.opinion for item in mined), default=-1) + 1))

    def root(opinion: int) -> int:
        while family[opinion] != opinion:
            opinion = family[opinion]
        return opinion

    first_seen: dict[str, int] = {}
    for item in mined:
        for ngram in word_ngrams(item.holding.filled):
            family[root(item.opinion)] = root(first_seen.setdefault(ngram, item.opinion))
    roots = [root(item.opinion) for item in mined]
    sizes = Counter(roots)

    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    rest, *others = shares
    split_of = dict.fromkeys(order, rest)
    drawn = iter(order)
    for split in others:
        quota = shares[split] * len(mined)
        while quota > 0 and (opinion := next(drawn, None)) is not None:
            split_of[opinion] = split
            quota -= sizes[opinion]
    return {split: [item for item, at in zip(mined, roots, strict=True) if split_of[at] == split] for split in shares}


def questions(split: str, mined: Sequence[Mined], seed: int) -> Iterator[dict]:
    """LexGLUE rows with 5 endings, the gold at a drawn place; no row where fewer than 4 distractors are left.

    A distractor is a holding of the same split and another opinion. Those with the highest mean of two cosines, to the
    passage and to the gold, are taken; none that nearly equals the gold or one taken already (`NEAR_DUPLICATE`). How
    many are longer than the gold is drawn from 0 to 4, since the similar ones are mostly the long ones, and the length
    would tell the gold.
    """
    if not mined:
        return
    # The verb that opens a holding says nothing of what it holds.
    vectorizer = TfidfVectorizer(stop_words=[*VERBS, *THAT_VERBS, "that"], sublinear_tf=True, token_pattern=r"\w+")
    golds = vectorizer.fit_transform([item.holding.text for item in mined])
    passages = vectorizer.transform([item.holding.passage.replace(MASK, "") for item in mined])
    opinions = np.array([item.opinion for item in mined])
    lengths = np.array([len(item.holding.text) for item in mined])
    uses = np.zeros(len(mined), dtype=int)
    number = 0
    for index, item in enumerate(mined):
        generator = random.Random(f"{seed} {item.source} {item.holding.text}")
        to_gold = (golds @ golds[index].T).toarray().ravel()
        similarity = (to_gold + (golds @ passages[index].T).toarray().ravel()) / 2
        candidates = np.flatnonzero((opinions != item.opinion) & (to_gold < NEAR_DUPLICATE) & (uses < MAX_USES))
        candidates = candidates[np.argsort(-similarity[candidates], kind="stable")]
        longer = lengths[candidates] > lengths[index]
        num_longer = generator.randint(0, NUM_DISTRACTORS)
        taken: list[int] = []
        # The last round fills up where one side has too few.
        for side, size in ((longer, num_longer), (~longer, NUM_DISTRACTORS), (longer, NUM_DISTRACTORS)):
            for candidate in candidates[side].tolist():
                if len(taken) == size:
                    break
                if all((golds[other] @ golds[candidate].T).sum() < NEAR_DUPLICATE for other in taken):
                    taken.append(candidate)
        if len(taken) < NUM_DISTRACTORS:
            continue
        uses[taken] += 1
        order = [index, *taken]
        generator.shuffle(order)
        yield {
            "id": f"{split}-{number}",
            "context": item.holding.passage,
            "endings": [mined[place].holding.text for place in order],
            "label": order.index(index),
            "opinion": item.source,
        }
        number += 1
