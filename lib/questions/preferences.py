"""Preference pairs in TRL's columns: `prompt`, `chosen` and `rejected`, each a string or a list of messages, `rejected`
also a list of either. The same rules stand in cpp_scorer/preference.cpp."""

from lib.questions.fields import fail, show, value_of

Message = tuple[str, str]  # role and content; a plain string is one message


def preference(where: str, row: dict) -> tuple[str, list[str]]:
    """The prompt's text and the answers: the rejected ones, then the chosen one, so that an answer that is no better
    than a rejected one is not taken for the first of equals (TRL's accuracy counts none such either).

    An answer that repeats the prompt's messages begins after them. One message is its content; of several each is a
    line of its own, `role: content`, since a chat template would be another for each model.
    """
    prompt = _messages(where, "prompt", value_of(where, row, "prompt"), "user")
    chosen = _messages(where, "chosen", value_of(where, row, "chosen"), "assistant")
    value = value_of(where, row, "rejected")
    if isinstance(value, list) and not (value and isinstance(value[0], dict)):
        if not value:
            fail(where, "rejected", "is an empty list; a question needs an answer that was rejected")
        rejected = [_messages(where, "rejected", answer, "assistant") for answer in value]
    else:
        rejected = [_messages(where, "rejected", value, "assistant")]
    return _text(prompt), [_text(_after(prompt, answer)) for answer in (*rejected, chosen)]


def _messages(where: str, field: str, value, role: str) -> list[Message]:
    """`value` as messages; `role` is that of a plain string."""
    if isinstance(value, str):
        return [(role, value)]
    if not isinstance(value, list) or not value:
        fail(where, field, f"{show(value)} is neither a string nor a list of messages with role and content")
    for number, message in enumerate(value):
        given = [message.get(name) for name in ("role", "content")] if isinstance(message, dict) else []
        if not given or not all(isinstance(text, str) for text in given):
            fail(where, field, f"message {number}, {show(message)}, has no role and content that are strings")
    return [(message["role"], message["content"]) for message in value]


def _after(prompt: list[Message], answer: list[Message]) -> list[Message]:
    repeats = answer[: len(prompt)] == prompt and len(answer) > len(prompt)
    return answer[len(prompt) :] if repeats else answer


def _text(messages: list[Message]) -> str:
    if len(messages) == 1:
        return messages[0][1]
    return "\n".join(f"{role}: {content}" for role, content in messages)
