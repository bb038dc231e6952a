"""Which candidates a question trains on: its positive and, each epoch, some negatives drawn from a seed."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lib.data import STRIP
from lib.prompt import EncodedQuestion


@dataclass(frozen=True)
class TrainingQuestion:
    """positive: index of the candidate of highest reward. negatives: indices of those it may be set against."""

    encoded: EncodedQuestion
    positive: int
    negatives: tuple[int, ...]


def training_questions(encoded: Sequence[EncodedQuestion]) -> tuple[list[TrainingQuestion], Counter]:
    """The questions that can be trained on, and a count of what was dropped and why.

    A negative that is empty or stands among the candidates already is dropped; a question is dropped where that hits
    the positive, or where no negative is left. Positive and negative are told apart by the mean reward of the whole
    question, before anything is dropped.
    """
    kept, dropped = [], Counter()
    for item in encoded:
        rewards = item.question.rewards
        texts = [ending.strip(STRIP) for ending in item.question.endings]
        mean = sum(rewards) / len(rewards)
        positive = max(range(len(rewards)), key=rewards.__getitem__)
        negatives = [index for index, reward in enumerate(rewards) if reward <= mean]
        if positive in negatives:
            dropped["questions without a positive (all rewards are equal)"] += 1
        elif not texts[positive] or any(texts[index] == texts[positive] for index in negatives):
            dropped["questions whose positive is empty or equals a negative"] += 1
        else:
            distinct = [index for index in negatives if texts[index] and texts.index(texts[index]) == index]
            dropped["negatives that are empty or stand twice"] += len(negatives) - len(distinct)
            if distinct:
                kept.append(TrainingQuestion(item, positive, tuple(distinct)))
            else:
                dropped["questions without a usable negative"] += 1
    return kept, +dropped


def draw_candidates(question: TrainingQuestion, num_negatives: int, seed: int, epoch: int) -> list[int]:
    """The positive and `num_negatives` negatives (all where there are fewer), in the order of the data.

    A function of seed, epoch and question id alone: the same on any number of processes and after any resume.
    """
    generator = random.Random(f"{seed}/{epoch}/{question.encoded.question.id}")
    drawn = generator.sample(question.negatives, min(num_negatives, len(question.negatives)))
    return sorted([question.positive, *drawn])


def epoch_order(num_questions: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch visits the questions."""
    order = list(range(num_questions))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order
