"""Whether the hub can serve a model or a data set, asked before a library that would retry for minutes is."""

import threading

from lib.errors import InputError

HUB_SECONDS = 10.0  # how long the hub may take to answer before it counts as out of reach


def require_hub(what: str, repo: str, repo_type: str, advice: str) -> None:
    """Return if the hub knows `repo` (a "model" or a "dataset"), or if HF_HUB_OFFLINE says to use what is cached.

    Raises InputError within `HUB_SECONDS`; it begins with `what` and gives `advice`.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        return
    problems = []

    def ask() -> None:
        try:
            HfApi().repo_info(repo, repo_type=repo_type, timeout=HUB_SECONDS)
        except HfHubHTTPError as error:
            problems.append(f"does not serve {repo} ({str(error).strip().splitlines()[0]})")
        except Exception:  # the libraries below raise many kinds with no common base
            problems.append("cannot be reached")

    # In a thread: looking up a name, or trying one address after the other, can outlast any timeout given to it.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_SECONDS)
    if asking.is_alive():
        problems.append(f"gave no answer within {HUB_SECONDS:.0f} seconds")
    if problems:
        raise hub_error(what, f"the hub at {constants.ENDPOINT} {problems[0]}", advice)


def hub_error(what: str, problem: str, advice: str) -> InputError:
    return InputError(f"{what}: {problem}; {advice}; what is cached here already needs HF_HUB_OFFLINE=1")
