"""What models write for a few test questions, next to the gold (section 6.3 of the S-DPO paper)."""

from collections import Counter
from collections.abc import Mapping

from lib.data import STRIP, load_split
from lib.inference import start_accelerator
from lib.models import DTYPES, load_model, pick_precision, weights_sha256
from lib.prompt import PromptConfig, encode_questions
from lib.self_negatives import write_endings

NUM_QUESTIONS = 5
NUM_SAMPLES = 8


def make_examples(models: Mapping[str, str], data: str) -> dict:
    """For each of the first test questions, the ending that each of `models` (title to source) writes most often.

    `NUM_SAMPLES` endings are sampled from a fixed seed at temperature 1; `count` says how many of them were the one
    shown. What was written is kept by `lib.self_negatives` and not generated again.
    """
    dataset = load_split(data, "test", limit=NUM_QUESTIONS)
    precision = pick_precision("auto")
    accelerator = start_accelerator(precision)
    questions = [
        {
            "id": question.id,
            "prompt": question.fields[dataset.default_template.strip("{}")],
            "gold": question.endings[question.label].strip(STRIP),
            "written": {},
        }
        for question in dataset.questions
    ]
    for title, source in models.items():
        loaded = load_model(source, DTYPES[precision], merge=True)
        prompt = loaded.prompt or PromptConfig(dataset.default_template)
        encoded = encode_questions(dataset.questions, loaded.tokenizer, prompt)
        sha256 = weights_sha256(loaded.model)
        written, _ = write_endings(
            loaded, encoded, prompt, accelerator, count=NUM_SAMPLES, seed=0, weights_sha256=sha256
        )
        for question, endings in zip(questions, written, strict=True):
            [(text, count)] = Counter(endings).most_common(1)
            question["written"][title] = {"text": text, "count": count}
    return {"models": dict(models), "samples": NUM_SAMPLES, "questions": questions}
