"""How alike holdings are: cosines of TF-IDF vectors, in products of a block of holdings with all, so that memory grows
with their number and not with its square."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sparse_dot_topn import sp_matmul_topn

from lib.mining.parentheticals import THAT_VERBS, VERBS, Holding
from lib.progress import progress
from lib.questions.data import MASK

# Cosine of TF-IDF vectors from which two holdings say the same, or too nearly so to tell right from wrong.
NEAR_DUPLICATE = 0.5
DEPTH = 400  # holdings in a ranking: with 100, three times as many questions would need all ranked
BLOCK = 2_000  # holdings a product: 10 MB of rankings


@dataclass(frozen=True)
class Likeness:
    """Of N holdings over V words. golds [V, N]: their vectors, a column each. queries [N, V]: what a holding's
    distractors should be like, the mean of its gold's and its passage's vectors. near_duplicates [N, N]: the cosines of
    golds that are `NEAR_DUPLICATE` or more. threads: of a product; they change no result."""

    golds: csr_matrix
    queries: csr_matrix
    near_duplicates: csr_matrix
    threads: int

    def rankings(self, description: str) -> Iterator[np.ndarray]:
        """For each holding the beginning of its `ranking`, at most `DEPTH` long, with a progress bar."""
        for block in _products(self.queries, self.golds, description, top_n=DEPTH, sort=True, n_threads=self.threads):
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


def likeness(holdings: Sequence[Holding], description: str, threads: int) -> Likeness:
    """Vectors and near-duplicates of `holdings`, with a progress bar."""
    # The verb that opens a holding says nothing of what it holds.
    vectorizer = TfidfVectorizer(stop_words=[*VERBS, *THAT_VERBS, "that"], sublinear_tf=True, token_pattern=r"\w+")
    golds = vectorizer.fit_transform([holding.text for holding in holdings])
    passages = vectorizer.transform([holding.passage.replace(MASK, "") for holding in holdings])
    columns = golds.T.tocsr()
    below = np.nextafter(NEAR_DUPLICATE, 0)  # what equals the threshold is left out
    # density: of the memory that is taken beforehand.
    options = {"top_n": len(holdings), "threshold": below, "density": 1e-3, "n_threads": threads}
    near_duplicates = vstack(list(_products(golds, columns, description, **options)), format="csr")
    return Likeness(columns, (golds + passages) / 2, near_duplicates, threads)


def _products(left: csr_matrix, right: csr_matrix, description: str, **options) -> Iterator[csr_matrix]:
    """`left` @ `right`, the largest of each row, `BLOCK` rows at a time."""
    for start in progress(range(0, left.shape[0], BLOCK), desc=description, unit=f"x{BLOCK:,} holdings"):
        yield sp_matmul_topn(left[start : start + BLOCK], right, **options)
