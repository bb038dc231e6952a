"""How alike holdings are: cosines of TF-IDF vectors, by an index of words that spares most pairs, in blocks, so that
memory grows with their number and not with its square.

Two holdings meet in the index by a word that stands in both and is not among the commonest. For near-duplicates that
loses nothing: the common words of a holding, whose vector there is shorter than `UNINDEXED`, add less than that to a
cosine, so that the others must give the rest of it (the bound of All-Pairs, Bayardo et al. 2007); the pairs left are
compared whole. A ranking leaves out the words of more than `COMMON` holdings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, diags_array, vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sparse_dot_topn import sp_matmul_topn

from lib.cluster import in_order
from lib.mining.parentheticals import THAT_VERBS, VERBS, Holding
from lib.mining.workers import Workers, started
from lib.progress import progress
from lib.questions.data import MASK

# Cosine of TF-IDF vectors from which two holdings say the same, or too nearly so to tell right from wrong.
NEAR_DUPLICATE = 0.5
UNINDEXED = 0.3  # of the length 1 of a vector: with 0.2 or 0.4 the comparisons take longer
COMMON = 10_000  # holdings that a word stands in; a word of more tells little of what a holding is about
DEPTH = 400  # holdings in a ranking: with 100, three times as many questions would need all ranked
BLOCK = 2_000  # holdings a product: 10 MB of rankings
NEAR_BLOCK = 100  # whose products with all, of a million holdings, are some 300 MB


@dataclass(frozen=True)
class Likeness:
    """Of N holdings over V words. golds [V, N]: their vectors, a column each, without the words that are too common.
    queries [N, V]: what a holding's distractors should be like, the mean of its gold's and its passage's vectors.
    near_duplicates [N, N]: the cosines of golds that are `NEAR_DUPLICATE` or more. workers: of the rankings; they
    change no result."""

    golds: csr_matrix
    queries: csr_matrix
    near_duplicates: csr_matrix
    workers: Workers

    def rankings(self, description: str) -> Iterator[np.ndarray]:
        """For each holding the beginning of its `ranking`, at most `DEPTH` long, with a progress bar."""
        threads = self.workers if isinstance(self.workers, int) else 1
        for block in _in_blocks(_best, self.queries, self.workers, description, self.golds, threads):
            for start, end in zip(block.indptr[:-1], block.indptr[1:], strict=True):
                values, found = block.data[start:end], block.indices[start:end]
                if len(found) == DEPTH:  # others as alike as the last may be left out
                    found, values = found[values > values[-1]], values[values > values[-1]]
                yield found[np.lexsort((found, -values))]

    def ranking(self, index: int) -> np.ndarray:
        """All holdings [N], those first whose gold is most like gold and passage of holding `index`; of equal ones the
        earlier."""
        return np.argsort(-(self.queries[index] @ self.golds).toarray().ravel(), kind="stable")

    def near_duplicates_of(self, index: int) -> np.ndarray:
        """The holdings that say nearly the same as holding `index`, itself among them."""
        return self.near_duplicates.indices[slice(*self.near_duplicates.indptr[index : index + 2])]


def likeness(holdings: Sequence[Holding], description: str, workers: Workers) -> Likeness:
    """Vectors and near-duplicates of `holdings`, with a progress bar."""
    # The verb that opens a holding says nothing of what it holds.
    vectorizer = TfidfVectorizer(stop_words=[*VERBS, *THAT_VERBS, "that"], sublinear_tf=True, token_pattern=r"\w+")
    golds = vectorizer.fit_transform([holding.text for holding in holdings])
    passages = vectorizer.transform([holding.passage.replace(MASK, "") for holding in holdings])
    frequency = np.bincount(golds.indices, minlength=golds.shape[1])
    known = golds @ diags_array((frequency <= COMMON).astype(float))
    near = _in_blocks(_near, golds, workers, description, golds, _without_common(golds, frequency))
    return Likeness(csr_matrix(known.T), (golds + passages) / 2, vstack(list(near), format="csr"), workers)


def _without_common(golds: csr_matrix, frequency: np.ndarray) -> csr_matrix:
    """The vectors [V, N], a column each, without their commonest words, as many as have together a length below
    `UNINDEXED`."""
    rows = np.repeat(np.arange(golds.shape[0]), np.diff(golds.indptr))
    order = np.lexsort((golds.indices, -frequency[golds.indices], rows))  # of each row, the commonest word first
    squares = np.cumsum(golds.data[order] ** 2)
    before = np.concatenate([[0.0], squares])[golds.indptr[:-1]]
    kept = order[squares - np.repeat(before, np.diff(golds.indptr)) >= UNINDEXED**2]
    return csr_matrix((golds.data[kept], (golds.indices[kept], rows[kept])), shape=golds.shape[::-1])


def _near(left: csr_matrix, golds: csr_matrix, index: csr_matrix) -> csr_matrix:
    """The cosines [block, N] of `NEAR_DUPLICATE` or more between the rows of `left` and all golds."""
    found = []
    for start in range(0, left.shape[0], NEAR_BLOCK):
        rows = left[start : start + NEAR_BLOCK]
        products = (rows @ index).tocoo()
        possible = products.data >= NEAR_DUPLICATE - UNINDEXED - 1e-9
        row, column = products.row[possible], products.col[possible]
        cosines = np.asarray(rows[row].multiply(golds[column]).sum(axis=1)).ravel()
        near = cosines >= NEAR_DUPLICATE
        shape = (rows.shape[0], golds.shape[0])
        found.append(csr_matrix((cosines[near], (row[near], column[near])), shape=shape))
    return vstack(found, format="csr")


def _best(left: csr_matrix, golds: csr_matrix, threads: int) -> csr_matrix:
    return sp_matmul_topn(left, golds, top_n=DEPTH, sort=True, n_threads=threads)


def _in_blocks(function, left: csr_matrix, workers: Workers, description: str, *shared) -> Iterator[csr_matrix]:
    """`function(rows, *shared)` of `BLOCK` rows of `left` at a time, by this process or in tasks on a cluster."""
    blocks = (left[start : start + BLOCK] for start in range(0, left.shape[0], BLOCK))
    with (
        started(1 if isinstance(workers, int) else workers, function, *shared) as (submit, ahead),
        progress(total=-(-left.shape[0] // BLOCK), desc=description, unit=f"x{BLOCK:,} holdings") as shown,
    ):
        for _, result in in_order(submit, blocks, ahead):
            yield result
            shown.update()
