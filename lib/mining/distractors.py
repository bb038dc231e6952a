"""Holdings become questions: split by opinion, each with the distractors that are most like its passage and gold."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lib.mining.likeness import likeness
from lib.mining.overlap import ngram_hashes
from lib.mining.parentheticals import Holding
from lib.mining.workers import Workers
from lib.progress import progress

NUM_DISTRACTORS = 4
MAX_USES = 12  # of one holding as distractor: one met more often would be known as wrong


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
    families = _families(mined)
    sizes = Counter(families)

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
    return {
        split: [item for item, at in zip(mined, families, strict=True) if split_of[at] == split] for split in shares
    }


def _families(mined: Sequence[Mined]) -> list[int]:
    """Of each holding, the first opinion of those that its own is joined to by shared n-grams, through others too."""
    found = [ngram_hashes(item.holding.filled) for item in progress(mined, desc="comparing passages", unit="holding")]
    opinions = np.repeat(np.array([item.opinion for item in mined], np.int32), [len(hashes) for hashes in found])
    hashes = np.concatenate(found)
    order = np.argsort(hashes)
    hashes, opinions = hashes[order], opinions[order]
    equal = np.flatnonzero(hashes[1:] == hashes[:-1])
    size = max(item.opinion for item in mined) + 1
    links = coo_matrix((np.ones(len(equal), bool), (opinions[equal], opinions[equal + 1])), shape=(size, size))
    _, family = connected_components(links, directed=False)
    _, first = np.unique(family, return_index=True)
    return [int(first[family[item.opinion]]) for item in mined]


def questions(split: str, mined: Sequence[Mined], seed: int, workers: Workers) -> Iterator[dict]:
    """LexGLUE rows with 5 endings, the gold at a drawn place; no row where fewer than 4 distractors are left.

    A distractor is a holding of the same split and another opinion. Those with the highest mean of two cosines, to the
    passage and to the gold, are taken; none that nearly equals the gold or one taken already (`likeness.py`). How many
    are longer than the gold is drawn from 0 to 4, since the similar ones are mostly the long ones, and the length would
    tell the gold. The same for any number of workers.
    """
    if not mined:
        return
    like = likeness([item.holding for item in mined], f"{split}: near-duplicates", workers)
    opinions = np.array([item.opinion for item in mined])
    lengths = np.array([len(item.holding.text) for item in mined])
    uses = np.zeros(len(mined), dtype=int)

    def choose(index: int, num_longer: int, ranking: np.ndarray, whole: bool) -> list[int]:
        """4 distractors or, of the `whole` ranking, as many as there are; none where its beginning does not tell."""
        usable = ranking[(opinions[ranking] != opinions[index]) & (uses[ranking] < MAX_USES)]
        usable = usable[~np.isin(usable, like.near_duplicates_of(index))]
        longer = lengths[usable] > lengths[index]
        taken: list[int] = []
        ruled_out: set[int] = set()
        # The last round fills up where one side has too few.
        for side, size in ((longer, num_longer), (~longer, NUM_DISTRACTORS), (longer, NUM_DISTRACTORS)):
            for candidate in usable[side].tolist():
                if len(taken) == size:
                    break
                if candidate not in ruled_out:
                    taken.append(candidate)
                    ruled_out.update([candidate, *like.near_duplicates_of(candidate).tolist()])
            if len(taken) < size and not whole:
                return []
        return taken

    number = 0
    for index, (item, begun) in enumerate(zip(mined, like.rankings(f"{split}: distractors"), strict=True)):
        generator = random.Random(f"{seed} {item.source} {item.holding.text}")
        num_longer = generator.randint(0, NUM_DISTRACTORS)
        taken = choose(index, num_longer, begun, False) or choose(index, num_longer, like.ranking(index), True)
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
