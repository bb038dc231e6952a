"""The demo's questions: made-up opinions in which several voices answer one question, and only the court decides it.

Each voice speaks in its own words ("the power is lacking"), and the holding states the court's answer plainly
("cannot"). The five candidates differ in that answer alone, and the other voices of the passage plead for wrong ones,
so that neither length nor word overlap finds the holding: one has to read who says what.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from lib.checksums import check_sums, write_sums
from lib.paths import CACHE_DIR, atomic_dir, cache_lock, source_sha256

SPLIT_SIZES = {"train": 1200, "validation": 200, "test": 400}

# What each answer sounds like before it is put into the words of a holding.
ANSWERS = {
    "may": ("nothing stands in the way", "the law leaves the choice open", "no rule forbids the step", "it is allowed"),
    "must": ("there is no way around it", "the duty is plain", "the law demands the step", "it is an obligation"),
    "need not": ("nobody is bound to it", "no duty exists", "the law asks for no such step", "it is optional"),
    "cannot": ("the power is lacking", "the law bars the step", "such an act is void", "it is forbidden"),
    "alone may": (
        "nobody else has the right",
        "the law reserves the step",
        "the right is exclusive",
        "no one shares it",
    ),
}
VOICES = {
    "the court": ("We conclude that", "This court finds that", "In our judgment", "We are persuaded that"),
    "the appellant": ("Appellant insists that", "On appeal it is argued that"),
    "the dissent": ("The dissent would say that", "Our dissenting colleague thinks that"),
    "the trial judge": ("The trial judge had ruled that", "The court below assumed that"),
    "the treatise": ("A treatise teaches that", "The commentators write that"),
}
NUM_VOICES = 4  # in the passage of a question, the court among them
ACTORS = (
    "a tenant", "a landlord", "an insurer", "a carrier", "a surety", "a trustee", "a minor", "an agent", "a buyer",
    "a seller", "a lender", "a bailee", "a shipper", "a broker", "a guardian", "an heir", "a partner", "a creditor",
)  # fmt: skip
ACTS = (
    "rescind", "assign", "enforce", "disclose", "record", "renew", "waive", "ratify", "transfer", "cancel", "revoke",
    "redeem", "contest", "modify",
)  # fmt: skip
OBJECTS = (
    "the lease", "the deed", "the policy", "the bond", "the lien", "the will", "the patent", "the contract",
    "the warranty", "the license", "the mortgage", "the note", "the trust", "the easement",
)  # fmt: skip
NAMES = ("Abbott", "Baker", "Cole", "Dunn", "Ellis", "Frost", "Grant", "Hayes", "Irwin", "Keller", "Lowe", "Mason")


class MadeUpOpinion:
    """One drawn passage: its text, the proposition under each answer, and the answer of each voice in it."""

    def __init__(self, generator: random.Random, num_voices: int = NUM_VOICES):
        actor, other = generator.sample(ACTORS, 2)
        act, matter = generator.choice(ACTS), generator.choice(OBJECTS)
        self.propositions = {answer: f"{actor} {answer} {act} {matter}" for answer in ANSWERS}
        voices = ["the court", *generator.sample(list(VOICES)[1:], num_voices - 1)]
        generator.shuffle(voices)
        self.answers = dict(zip(voices, generator.sample(list(ANSWERS), num_voices), strict=True))
        said = " ".join(
            f"{generator.choice(VOICES[voice])} {generator.choice(ANSWERS[answer])}."
            for voice, answer in self.answers.items()
        )
        first, second = generator.sample(NAMES, 2)
        cite = f"See {first} v. {second}, {generator.randint(1, 99)} F.2d {generator.randint(1, 999)}"
        facts = f"Whether {actor} has to or can {act} {matter} of {other} is disputed."
        self.text = f"{facts} {said} {cite} (<HOLDING>)."


def rows(split: str) -> Iterator[dict]:
    """The LexGLUE rows of one split. Every opinion is drawn once over all splits, so that none is in two of them."""
    generator = random.Random(0)
    seen = set()
    for name, size in SPLIT_SIZES.items():
        number = 0
        while number < size:
            opinion = MadeUpOpinion(generator)
            answers = generator.sample(list(ANSWERS), len(ANSWERS))
            # One question of law may come back in another split, but never with the same voices and answers.
            key = (opinion.propositions["may"], *sorted(opinion.answers.items()))
            if key in seen:
                continue
            seen.add(key)
            if name == split:
                yield {
                    "id": f"{split}-{number}",
                    "context": opinion.text,
                    "endings": [f"holding that {opinion.propositions[answer]}" for answer in answers],
                    "label": answers.index(opinion.answers["the court"]),
                }
            number += 1


def pretraining_texts(count: int) -> Iterator[str]:
    """Text to learn the language from: passages of one to four voices, with a holding that repeats one of them, whoever
    it is. Nothing tells the base model that a holding is what the court said."""
    generator = random.Random(1)
    for _ in range(count):
        opinion = MadeUpOpinion(generator, generator.randint(1, NUM_VOICES))
        yield f"{opinion.text} holding that {opinion.propositions[generator.choice(list(opinion.answers.values()))]}"


def ensure_data() -> Path:
    """The folder with the demo's three splits, written on first use."""
    folder = CACHE_DIR / "demo" / f"data-{source_sha256(__file__)[:16]}"
    if folder.exists():
        check_sums(folder)
        return folder
    with cache_lock(folder):
        if not folder.exists():  # another process may have made it meanwhile
            with atomic_dir(folder, shared=True) as temporary:
                for split in SPLIT_SIZES:
                    lines = (json.dumps(row) + "\n" for row in rows(split))
                    (temporary / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
                write_sums(temporary)
    return folder
