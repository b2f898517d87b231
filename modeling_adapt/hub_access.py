"""Whether a name means a folder of this machine or a repository of the Hub, and what goes wrong on the way there."""

import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .files import is_full_disk

HUB_DATASETS = "hf://datasets/"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_NOT_IN_CACHE = (OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError)  # the last is that of datasets


def is_local(name: str | Path) -> bool:
    """Whether `name` is a path: it exists, its parent does, or it does not look like `organisation/name`.

    A misspelled folder is then an error that says so, instead of a question to the network. `hf://datasets/...` is
    never a path.
    """
    if str(name).startswith(HUB_DATASETS):
        return False
    path = Path(name).expanduser()
    return path.exists() or path.parent.is_dir() or not _HUB_ID.fullmatch(str(name))


def revision_for(name: str | Path, revision: str | None) -> str | None:
    """Of several models with one `revision`, what it is of this one: a folder has none."""
    return None if is_local(name) else revision


def hub_problem(error: BaseException, name: str, kind: str = "model", revision: str | None = None) -> str | None:
    """
    The line for an error of `huggingface_hub`, also where `transformers` or `datasets` has put it into one of its own.

    Args:
        error (`BaseException`): What was raised; its causes count as well.
        name (`str`): The repository.
        kind (`str`, defaults to `"model"`): Whether that is a `"model"` or a `"dataset"`.
        revision (`str`, *optional*): The one that was asked for.

    Returns:
        `str` or `None`: A line that names the repository and the remedy; None where the Hub is not what failed.
    """
    causes = list(_chain(error))
    if any(is_full_disk(cause) for cause in causes):
        return f"no space is left for {name} in {constants.HF_HOME}: make room, or name another folder with HF_HOME"
    for cause in causes:
        if isinstance(cause, HfHubHTTPError) and not isinstance(cause, RemoteEntryNotFoundError):
            return _refusal(cause, name, kind, revision)
    if constants.HF_HUB_OFFLINE:
        if any(isinstance(cause, _NOT_IN_CACHE) or _names_a_file_that_is_missing(cause) for cause in causes):
            which = name if revision is None else f"{name} at revision {revision}"
            return (
                f"{which} is not, or not whole, in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set: "
                "run once without it"
            )
        return None
    for cause in causes:
        if is_broken_connection(cause):
            return (
                f"{name} cannot be fetched from {constants.ENDPOINT} ({' '.join(str(cause).split())}): "
                "check the network, then run the same again"
            )
    return None


def is_broken_connection(error: BaseException) -> bool:
    """Whether no answer came, or only a part of one."""
    # httpx or httpx2, as huggingface_hub has it: this is their name for all that happens below HTTP.
    names = [base.__name__ for base in type(error).__mro__]
    return isinstance(error, ConnectionError) or "TransportError" in names


def _names_a_file_that_is_missing(error: BaseException) -> bool:
    """What transformers raises, without a cause, where the weights are not among the files in the cache."""
    return type(error) is OSError and error.errno is None and "does not appear to have a file named" in str(error)


def no_such_repository(name: str, kind: str) -> str:
    """The line for a repository that does not exist, or whose existence the Hub does not tell."""
    return (
        f"there is no {kind} {name} on the Hub that you may read: check the name; for a private one log in with "
        "'hf auth login' or set HF_TOKEN"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _refusal(error: HfHubHTTPError, name: str, kind: str, revision: str | None) -> str:
    """What the Hub answered."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/{'' if kind == 'model' else kind + 's/'}{name}"
        return f"{name} is gated: ask for access on its page {page}"
    if isinstance(error, RepositoryNotFoundError):
        return no_such_repository(name, kind)
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision or 'main'}{_existing_revisions(name, kind)}"
    if status == 401:
        return f"the Hub refuses your token for {name}: log in again with 'hf auth login', or correct HF_TOKEN"
    if status == 403:
        return f"your token does not allow this with {name}: {error.server_message or 'forbidden'}"
    if status == 429:
        wait = error.response.headers.get("Retry-After", "")
        when = f"in {wait} s" if wait.isdigit() else "later"
        return f"the Hub answers for {name} that there were too many requests: run the same again {when}"
    what = error.server_message or error.response.reason_phrase
    return f"the Hub answers for {name} with error {status} ({what}): run the same again later"


def _existing_revisions(name: str, kind: str) -> str:
    try:
        refs = HfApi().list_repo_refs(name, repo_type=kind)
    except Exception:  # it would only have been kind to name them
        return ""
    return f"; it has {', '.join(ref.name for ref in (*refs.branches, *refs.tags))}"
