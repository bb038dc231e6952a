"""Whether the model hub can be reached, asked before a library that would retry for minutes is."""

import os
import socket
from urllib.parse import urlsplit

from lib.errors import InputError

PROBE_SECONDS = 5.0


def require_hub(what: str, advice: str) -> None:
    """Return if the hub answers (or HF_HUB_OFFLINE says to use what is cached); else raise InputError in seconds."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    endpoint = urlsplit(constants.ENDPOINT)
    proxy = urlsplit(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or "")
    host, port = (proxy.hostname, proxy.port) if proxy.hostname else (endpoint.hostname, endpoint.port)
    try:
        socket.create_connection((host, port or 443), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"{what}: the hub at {endpoint.hostname} cannot be reached ({error}); {advice}; "
            "if it is cached here already, set HF_HUB_OFFLINE=1"
        ) from None
