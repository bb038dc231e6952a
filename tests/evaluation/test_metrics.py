"""Metrics equal scikit-learn, scipy and statsmodels on the same predictions, and intervals hold what they promise."""

import math

import numpy as np
import pytest
from conftest import CASEHOLD, needs_casehold
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss
from statsmodels.stats.proportion import proportion_confint

from lib.evaluation import metrics
from lib.evaluation.metrics import (
    bootstrap_interval,
    by_name,
    by_quartile,
    calibration_error,
    compute_metrics,
    coverage_curve,
    decline_below,
    margins,
    wilson_interval,
)
from lib.questions.baselines import baselines, gold_ranks
from lib.questions.data import Question, load_split


def predictions(count: int, num_candidates: int = 5, seed: int = 0, score: str = "sum") -> list[dict]:
    """Records whose labels follow their log-probs now and then."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        values = rng.normal(-30, 1.5, num_candidates)
        tokens = rng.integers(5, 40, num_candidates)
        label = int(values.argmax()) if rng.random() < 0.4 else int(rng.integers(num_candidates))
        record = {"id": str(number), "label": label, "score": score, "logprobs": values.tolist(), "truncated": 0}
        record |= {"tokens": tokens.tolist(), "bytes": (4 * tokens).tolist()}
        chosen = values / tokens if score == "mean" else values
        made.append(record | {"prediction": int(chosen.argmax())})
    return made


@pytest.mark.parametrize(("score", "num_candidates"), [("sum", 5), ("mean", 5), ("sum", 2)])
def test_metrics_equal_scikit_learn(score, num_candidates):
    records = predictions(400, num_candidates, score=score)
    values = np.array([record["logprobs"] for record in records])
    if score == "mean":
        values /= np.array([record["tokens"] for record in records])
    labels = [record["label"] for record in records]
    probabilities, chosen = softmax(values, axis=1), values.argmax(1)
    found = compute_metrics(records)
    classes = range(num_candidates)
    assert found.accuracy == pytest.approx(accuracy_score(labels, chosen))
    assert found.macro_f1 == pytest.approx(f1_score(labels, chosen, average="macro"))
    assert found.micro_f1 == pytest.approx(found.accuracy)
    assert found.nll == pytest.approx(log_loss(labels, probabilities, labels=classes), rel=1e-9)
    one_hot = np.eye(num_candidates)[labels]
    assert found.brier == pytest.approx(((probabilities - one_hot) ** 2).sum(1).mean(), rel=1e-9)
    assert found.brier == pytest.approx(brier_score_loss(labels, probabilities, labels=classes, scale_by_half=False))


def test_questions_with_fewer_candidates_are_as_if_alone():
    few, many = predictions(50, 2), predictions(70, 9, seed=1)
    together, apart = compute_metrics(few + many), [compute_metrics(few), compute_metrics(many)]
    for name in ("nll", "brier"):
        alone = sum(getattr(one, name) * one.total for one in apart) / 120
        assert getattr(together, name) == pytest.approx(alone)


def test_calibration_error_is_the_weighted_gap_of_scikit_learns_curve():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.2, 1, 1_000)
    correct = rng.random(1_000) < confidence**2
    shares, means = calibration_curve(correct, confidence, n_bins=metrics.ECE_BINS)
    counts = np.histogram(confidence, np.linspace(0, 1, metrics.ECE_BINS + 1))[0]
    expected = (counts[counts > 0] * np.abs(shares - means)).sum() / 1_000
    assert calibration_error(confidence, correct) == pytest.approx(expected)
    assert calibration_error(np.array([0.7, 0.7]), np.array([True, False])) == pytest.approx(0.2)
    assert calibration_error(np.array([1.0]), np.array([True])) == 0


@pytest.mark.parametrize(("correct", "total"), [(74, 200), (0, 7), (7, 7), (334, 793)])
def test_wilson_interval_equals_statsmodels_and_the_closed_form(correct, total):
    z, share = 1.959963984540054, correct / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    assert wilson_interval(correct, total) == pytest.approx((centre - half, centre + half), abs=1e-9)
    assert wilson_interval(correct, total) == pytest.approx(proportion_confint(correct, total, method="wilson"))


def test_bootstrap_interval_has_the_known_answer_of_a_share():
    # The resampled mean of k ones in n is Binomial(n, k / n) / n, whose quantiles are known.
    from scipy.stats import binom

    values = np.repeat([1.0, 0.0], [80, 120])
    assert bootstrap_interval(values) == pytest.approx(binom.ppf([0.025, 0.975], 200, 0.4) / 200, abs=0.0051)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval([1.0, 1.0, 1.0]) == (1.0, 1.0)
    assert bootstrap_interval([0.0]) == (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.42, 0.75])
def test_intervals_cover_95_percent_of_2000_simulated_sets(share, monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 1_000)
    rng = np.random.default_rng(7)
    covered = np.zeros(3)
    for _ in range(2_000):
        correct = rng.random(793) < share
        low, high = wilson_interval(int(correct.sum()), 793)
        covered[0] += low <= share <= high
        low, high = bootstrap_interval(correct)
        covered[1] += low <= share <= high
        # A paired difference: the second run is right 6 points more often, and agrees with the first otherwise.
        change = rng.choice([-1, 0, 1], 793, p=[0.10, 0.74, 0.16])
        low, high = bootstrap_interval(change)
        covered[2] += low <= 0.06 <= high
    assert covered / 2_000 == pytest.approx(0.95, abs=0.015)


def test_the_coverage_curve_is_that_of_every_threshold():
    records = predictions(200)
    gap, correct = np.round(margins(records), 1), metrics.is_correct(records)
    curve = coverage_curve(gap, correct)
    assert [point.margin for point in curve] == sorted(set(gap.tolist()), reverse=True)
    for point in curve:
        answered = gap >= point.margin
        assert (point.answered, point.correct) == (answered.sum(), correct[answered].sum())
    for target in (0.3, 0.45, 0.6):
        reaching = [
            point for point in curve if proportion_confint(point.correct, point.answered, method="wilson")[0] >= target
        ]
        expected = max(reaching, key=lambda point: point.answered) if reaching else None
        assert decline_below(gap, correct, target) == expected
    assert decline_below(gap, np.zeros(200, bool), 0.9) is None


def test_a_few_right_answers_are_not_surely_90_percent():
    """The best of many thresholds is not taken at its word: 34 answers that are all right may be 89.8 % right ones."""
    gap = np.arange(100.0, 0.0, -1.0)
    assert decline_below(gap, np.arange(100) < 34, 0.9) is None
    assert decline_below(gap, np.arange(100) < 35, 0.9).answered == 35


def test_margin_is_the_best_less_the_second():
    record = {"score": "mean", "logprobs": [-8.0, -9.0, -4.0], "tokens": [4, 3, 1], "bytes": [1, 1, 1]}
    assert margins([record]) == pytest.approx([1.0])  # -2, -3, -4


def test_groups_hold_every_question_once():
    values = [1, 1, 1, 2, 3, 4, 5, 60]
    correct = np.array([1, 0, 1, 1, 0, 0, 1, 1], bool)
    groups = by_quartile(values, correct)
    assert [(group.name, group.total, group.correct) for group in groups] == [
        ("1", 3, 2), ("2", 1, 1), ("3 to 4", 2, 0), ("5 to 60", 2, 2)
    ]  # fmt: skip
    assert [group.name for group in by_quartile([7] * 5, np.ones(5, bool))] == ["7"]
    cut = [(group.name, group.total, group.correct) for group in by_name(["b", "a", "b"], np.array([1, 0, 0], bool))]
    assert cut == [("a", 1, 0), ("b", 2, 1)]


def test_the_gold_is_ranked_by_the_share_of_its_words_in_the_prompt():
    question = Question("q", {"context": "a b c"}, ("a x", "a b", "x y"), (1.0, 0.0, 0.0), 0, "here")
    assert gold_ranks([question]) == [2]


@needs_casehold
def test_baselines_on_real_casehold_are_the_known_ones():
    scores = baselines(load_split(str(CASEHOLD), "test").questions)
    assert scores["chance"] == pytest.approx(0.2)
    assert scores["word overlap"] == pytest.approx(0.35, abs=0.015)
    assert 0.235 <= scores["longest"] <= 0.275 and 0.105 <= scores["shortest"] <= 0.125


@needs_casehold
def test_the_tfidf_baseline_is_the_cosine_of_its_definition():
    # Written out: (1 + ln tf) * (1 + ln((1 + n) / (1 + df))) over the distinct texts, normalised.
    from collections import Counter

    from lib.questions.baselines import words

    questions = load_split(str(CASEHOLD), "test", limit=40).questions
    prompts = [question.fields["context"] for question in questions]
    texts = [*dict.fromkeys(ending for question in questions for ending in question.endings), *prompts]
    seen_in = Counter(word for text in texts for word in set(words(text)))

    def vector(text):
        weights = {
            word: (1 + math.log(count)) * (1 + math.log((1 + len(texts)) / (1 + seen_in[word])))
            for word, count in Counter(words(text)).items()
        }
        norm = math.sqrt(sum(weight**2 for weight in weights.values()))
        return {word: weight / norm for word, weight in weights.items()}

    hits = 0
    for question, prompt in zip(questions, prompts, strict=True):
        context = vector(prompt)
        values = [sum(weight * context.get(word, 0) for word, weight in vector(ending).items())
                  for ending in question.endings]  # fmt: skip
        hits += values.index(max(values)) == question.label
    assert baselines(questions)["TF-IDF"] == pytest.approx(hits / 40)
