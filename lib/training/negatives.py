"""Which candidates a question trains on: its positives and, each epoch, some negatives drawn from a seed."""

import math
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lib.questions.data import STRIP
from lib.questions.prompt import EncodedQuestion

# random: all are equally likely; hard: those of higher pmi under the reference; lowest: those of lowest reward
NEGATIVES = ("random", "hard", "lowest")


@dataclass(frozen=True)
class TrainingQuestion:
    """positives: indices of the candidates above `mean`, the question's mean reward, the best one first. negatives:
    indices of those they may be set against. reference: the reference's log-prob of every candidate, where it is
    asked for; pmi: that less the log-prob after the neutral prompt, where hard negatives are drawn by it."""

    encoded: EncodedQuestion
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    mean: float
    reference: Sequence[float] | None = None
    pmi: Sequence[float] | None = None


@dataclass(frozen=True)
class Sampling:
    """How candidates are drawn: how many negatives; every positive, or the best alone; which negatives, one of
    `NEGATIVES`; and the temperature of hard ones, in nats."""

    num_negatives: int
    all_positives: bool
    seed: int
    negatives: str = "random"
    temperature: float = 10.0


def training_questions(encoded: Sequence[EncodedQuestion]) -> tuple[list[TrainingQuestion], Counter]:
    """The questions that can be trained on, and a count of what was dropped and why.

    Positives and negatives are told apart by the mean reward of the whole question, before anything is dropped. The
    best candidate must not be empty nor equal a negative, else its question is dropped. Any other candidate that is
    empty, or stands already among the better ones or before it, is dropped; so is a question left without a negative.
    """
    kept, dropped = [], Counter()
    for item in encoded:
        rewards = item.question.rewards
        texts = [ending.strip(STRIP) for ending in item.question.endings]
        given = len(rewards) - item.question.generated
        mean = statistics.mean(rewards[:given])  # exact: equal rewards have no deviation
        best = max(range(len(rewards)), key=rewards.__getitem__)
        positives = [best, *(index for index, reward in enumerate(rewards) if reward > mean and index != best)]
        negatives = [index for index, reward in enumerate(rewards) if reward <= mean]
        if best in negatives:
            dropped["questions without a positive (all rewards are equal)"] += 1
        elif not texts[best] or any(texts[index] == texts[best] for index in negatives):
            dropped["questions whose positive is empty or equals a negative"] += 1
        else:
            first: dict[str, int] = {}
            for index in positives + negatives:
                first.setdefault(texts[index], index)
            distinct = {index for text, index in first.items() if text}
            usable = TrainingQuestion(
                item,
                tuple(index for index in positives if index in distinct),
                tuple(index for index in negatives if index in distinct),
                mean,
            )
            dropped["other positives that are empty or stand twice"] += len(positives) - len(usable.positives)
            dropped["negatives that are empty or stand twice"] += len(negatives) - len(usable.negatives)
            if usable.negatives:
                kept.append(usable)
            else:
                dropped["questions without a usable negative"] += 1
    return kept, +dropped


def draw_candidates(question: TrainingQuestion, sampling: Sampling, epoch: int) -> list[int]:
    """The positives and `sampling.num_negatives` negatives (all where there are fewer), in the order of the data.

    Hard negatives are drawn without replacement with odds exp(pmi under the reference / temperature): the largest of
    pmi / temperature + Gumbel noise (Kool et al. 2019, "Stochastic Beams and Where to Find Them", on the Gumbel-top-k
    trick). By pmi, since log-probs say mostly how long an ending is: under SmolLM2-135M, on 40 CaseHOLD questions of
    four negatives, the first one drawn is the shortest in 72 % by the sum (temperature 10), the longest in 49 % by the
    mean a token (0.5), and by pmi (10) it is the one in 15 and the other in 34 %.

    The lowest are those of lowest reward, ties by lot (SWEPO's appendix E sets the best against it, in DPO). A function
    of seed, epoch, question id and pmi alone: the same on any number of processes and after any resume.
    """
    generator = random.Random(f"{sampling.seed}/{epoch}/{question.encoded.question.id}")
    count = min(sampling.num_negatives, len(question.negatives))
    if sampling.negatives == "hard":
        keys = {
            index: question.pmi[index] / sampling.temperature - math.log(generator.expovariate(1.0))
            for index in question.negatives
        }
        drawn = sorted(keys, key=keys.__getitem__, reverse=True)[:count]
    elif sampling.negatives == "lowest":
        shuffled = generator.sample(question.negatives, len(question.negatives))
        drawn = sorted(shuffled, key=question.encoded.question.rewards.__getitem__)[:count]
    else:
        drawn = generator.sample(question.negatives, count)
    return sorted([*question.positives[: None if sampling.all_positives else 1], *drawn])


def epoch_order(num_questions: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch visits the questions."""
    order = list(range(num_questions))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order
