"""The template of a prompt: {field} names, replaced once; braces inside the data mean nothing."""

import re

from lib.errors import InputError
from lib.questions.data import STRIP, Question

MAIN_FIELDS = ("context", "question", "prompt")
NEUTRAL_PROMPT = "Answer:"
FIELD = re.compile(r"\{(\w+)\}")


def render(template: str, question: Question) -> tuple[str, str, str]:
    """The prompt in three pieces: what stands before the main field, its value, and what stands after it, the
    prompt's end stripped. Raises InputError where the template names a field that the question lacks."""

    def value(match: re.Match) -> str:
        name = match[1]
        if name not in question.fields:
            raise InputError(f"{question.source}: field '{name}' is missing; the template '{template}' needs it")
        return question.fields[name]

    main = main_field(template)
    prefix = FIELD.sub(value, template[: main.start()])
    body = value(main)
    suffix = FIELD.sub(value, template[main.end() :]).rstrip(STRIP)
    if not suffix:
        body = body.rstrip(STRIP)
        prefix = prefix if body else prefix.rstrip(STRIP)
    return prefix, body, suffix


def neutral_prompt(template: str) -> str:
    """What stands for the question where an ending is scored without one: the template with every field empty, or
    `NEUTRAL_PROMPT` where that leaves nothing (the "domain premise" of Holtzman et al. 2021)."""
    return FIELD.sub("", template).rstrip(STRIP) or NEUTRAL_PROMPT


def main_field(template: str) -> re.Match:
    """The first {context}, {question} or {prompt} of the template: the only text that may be cut."""
    for match in FIELD.finditer(template):
        if match[1] in MAIN_FIELDS:
            return match
    raise InputError(f"template '{template}': it must hold {{context}}, {{question}} or {{prompt}}")
