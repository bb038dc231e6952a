"""A model behind a server with OpenAI's `/v1/chat/completions`, asked one message at temperature 0."""

import contextlib
import json
import os
import threading
from dataclasses import dataclass

import requests

from lib.errors import InputError, first_line

RETRIED = {408, 429, 500, 502, 503, 504, 529}  # the last: some hosts' word for too many users
LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for
# What servers say of a prompt that their model cannot hold: OpenAI and llama-cpp-python, vLLM, llama.cpp.
TOO_LONG = ("context_length_exceeded", "maximum context length", "exceed_context_size")
SHORTEST_SECRET = 8  # characters; local servers take keys such as "x", which stands in every other word
MESSAGE_LENGTH = 200  # characters that are shown of what a server says


@dataclass(frozen=True)
class Reply:
    """text: what the model says, or the server of a prompt that is `too_long` for it. requests: how often the prompt
    was sent. tokens: None where the server does not report them."""

    text: str
    requests: int
    prompt_tokens: int | None
    completion_tokens: int | None
    too_long: bool = False


def api_key(variable: str) -> str:
    """The key in an environment variable, "" where there is none. Raises InputError, which does not show it, for one
    that no header can carry."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{variable}: holds characters that no key has; set it again")
    return key


class ChatModel:
    """Asked from several threads; `stopping` is set to end their waits for the next try."""

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        key_env: str,
        max_tokens: int,
        timeout: float,
        retries: int,
        concurrency: int,
    ):
        """endpoint: base URL, up to and with /v1. key_env: environment variable of the key, if there is one. timeout:
        seconds of silence. retries: times that a prompt is sent again after a time-out, a broken connection, a 429 or
        a 5xx. concurrency: threads that ask."""
        self.url, self.model, self.max_tokens = f"{endpoint}/chat/completions", model, max_tokens
        self.key_env, self.key, self.timeout, self.retries = key_env, api_key(key_env), timeout, retries
        self.stopping = threading.Event()
        self.session = requests.Session()
        self.session.mount(self.url, requests.adapters.HTTPAdapter(pool_maxsize=concurrency))
        # As `auth`, so that requests does not put a password of ~/.netrc in its place.
        self.session.auth = self._authorise

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def ask(self, prompt: str) -> Reply:
        """Raises InputError where the server does not answer, refuses the request, or is no such server."""
        status, body, sent = self._post(prompt)
        if status in (400, 413) and any(mark in body for mark in TOO_LONG):
            return Reply(f"{status}: {message_of(body)}", sent, 0, 0, too_long=True)
        if status != 200:
            advice = {
                401: f"set {self.key_env} to a key of this server, or name another variable with --api-key-env",
                403: f"the key in {self.key_env} may not do this",
                404: "--endpoint ends with /v1 on most servers, and --judge is a name that the server knows",
            }.get(status, "the server does not take such requests")
            raise InputError(f"{self.url}: refused ({status}: {message_of(body)}); {advice}")
        try:
            completion = json.loads(body)
            # The other way round, half a surrogate pair, which JSON can hold, could not be written.
            text = (completion["choices"][0]["message"]["content"] or "").encode("utf-8", "replace").decode()
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{self.url}: answered with something else than a chat completion ({body.strip()!r:.60}); "
                "--endpoint takes the base URL of an OpenAI-compatible server"
            ) from None
        usage = completion.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        return Reply(text, sent, _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))

    def _post(self, prompt: str) -> tuple[int, str, int]:
        """Status and body of the answer, and how often the prompt was sent."""
        message = {"role": "user", "content": prompt}
        body = {"model": self.model, "messages": [message], "temperature": 0, "max_tokens": self.max_tokens}
        for sent in range(1, self.retries + 2):
            delay = 2.0 ** (sent - 1)
            try:
                response = self.session.post(self.url, json=body, timeout=self.timeout, allow_redirects=False)
            except requests.RequestException as error:
                problem = reason_of(error)
            else:
                text = response.content.decode("utf-8", "replace")
                if len(self.key) >= SHORTEST_SECRET:
                    text = text.replace(self.key, "***")
                if response.status_code not in RETRIED:
                    return response.status_code, text, sent
                problem = f"{response.status_code}: {message_of(text)}"
                wanted = response.headers.get("Retry-After", "")
                delay = float(wanted) if wanted.isdecimal() else delay
            if sent <= self.retries and self.stopping.wait(min(delay, LONGEST_WAIT)):
                break
        raise InputError(
            f"{self.url}: no answer ({problem}; sent {sent} times); what was answered is kept: "
            "give the same command again once the server answers"
        )


def message_of(body: str) -> str:
    """What a server says of an error, on one line."""
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        body = json.loads(body)["error"]["message"]
    return " ".join(str(body).split())[:MESSAGE_LENGTH] or "nothing said"


def reason_of(error: requests.RequestException) -> str:
    """The innermost words of an error that requests and urllib3 have wrapped: "[Errno 111] Connection refused", say."""
    if isinstance(error, requests.Timeout):
        return "timed out"
    cause = error.args[0] if error.args else error
    return first_line(getattr(cause, "reason", None) or cause).rsplit(": ", 1)[-1][:MESSAGE_LENGTH]


def _count(value) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
