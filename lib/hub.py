"""The hub: whether it can serve a model or a data set, asked before a library that would retry for minutes is; and a
run's folder pushed to it and fetched from it."""

import shlex
import threading
from collections.abc import Sequence
from pathlib import Path

from lib.errors import InputError, first_line

# Of a run's folder: what only going on needs, what names this machine, and what is still being written.
NOT_PUSHED = ("checkpoints/*", "tensorboard/*", "trackio/*", "wandb/*", ".*")
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
        except ValueError as error:  # of a name that cannot be
            problems.append(f"has no {repo} ({str(error).strip().splitlines()[0]})")
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


def fetch_run(repo: str, marks: Sequence[str]) -> str | None:
    """The folder of the hub's model `repo`, fetched whole, where it holds one of the files `marks`, as a run does; None
    where it holds none. Raises InputError where what it consists of cannot be fetched."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    for name in marks:
        try:
            hf_hub_download(repo, name)
            return snapshot_download(repo)
        except EntryNotFoundError:  # offline, also where it may be there and is not cached
            continue
        except Exception as error:  # the libraries below raise many kinds with no common base
            raise hub_error(f"model {repo}", f"cannot be fetched ({first_line(error)})", "try again") from None
    return None


def repo_name(text: str) -> str:
    """A flag's value as a name on the hub, NAME or OWNER/NAME. Raises ValueError for what the hub would not take."""
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(text)
    return text


def require_token(repo: str) -> None:
    """Raises InputError where nobody is logged in to the hub, so that nothing can be pushed to `repo`."""
    from huggingface_hub import get_token

    if not get_token():
        raise InputError(f"--push-to-hub {repo}: not logged in to the hub; type `hf auth login`, or set HF_TOKEN")


def push_run(folder: Path, repo: str) -> str:
    """Push what the finished run in `folder` consists of, all but `NOT_PUSHED`, to the model repository `repo` of the
    hub, made where it is not there; the address of what was pushed.

    Raises InputError, with the command that pushes it again, where it fails; the run stays as it is.
    """
    from huggingface_hub import HfApi

    try:
        address = HfApi().create_repo(repo, exist_ok=True)
        HfApi().upload_folder(repo_id=address.repo_id, folder_path=folder, ignore_patterns=list(NOT_PUSHED))
    except Exception as error:  # the libraries below raise many kinds with no common base
        again = shlex.join(["hf", "upload", repo, str(folder), ".", "--exclude", *NOT_PUSHED])
        raise InputError(
            f"{folder}: the run is finished, but not pushed to {repo} ({first_line(error)}); push it with `{again}`"
        ) from None
    return str(address)
