"""One commit with what differs from what is there, and what the Hub answers in one line."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub import errors as hub_errors
from huggingface_hub.hf_api import RepoFile

from ..errors import InputError
from ..hub_errors import hub_problem

_ABSENT = (hub_errors.RevisionNotFoundError, hub_errors.EntryNotFoundError)
_AS_IT_WAS = "the repository is as it was, and what was sent is not sent again"


@dataclass(frozen=True)
class Upload:
    """
    What an upload did.

    Attributes:
        url: of the repository.
        commit: hash of what is there now.
        sent: files that were new or different.
        removed: files of an earlier upload that are no longer part of it.
    """

    url: str
    commit: str
    sent: list[str]
    removed: list[str]


def upload(
    api: HfApi,
    repository: str,
    files: Mapping[str, Path],
    message: str,
    *,
    kind: str = "model",
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    ours: Callable[[str], bool] = lambda name: False,
) -> Upload:
    """Makes the repository where it does not exist, and brings it to hold `files` in one commit, or in none.

    Large files go up before the commit, and those that are there are not sent again; so an upload that broke off goes
    on, and nobody sees half of it.

    Args:
        repository: `organisation/name`.
        files: name in the repository -> file.
        kind: "model" or "dataset".
        private: the repository must be private.
        revision: branch; made where it does not exist. By default main.
        tag: name for the commit.
        ours: whether a file that is there and not in `files` is to be removed.

    Raises:
        [`InputError`]: the Hub refuses, or cannot be reached; the line says what to do.
    """
    where: dict[str, Any] = {"repo_id": repository, "repo_type": kind}
    branch = revision or "main"
    with _answers(repository, kind):
        try:
            url = str(api.create_repo(**where, private=private or None, exist_ok=True))
        except KeyError:  # the name is taken, and the Hub does not say by what
            url = f"{api.endpoint}/{repository}"
        try:
            info = api.repo_info(**where)
        except hub_errors.RepositoryNotFoundError as error:
            raise InputError(
                f"{repository} cannot be a {kind}: the name is taken by something else; choose another name"
            ) from error
        if private and not info.private:
            raise InputError(f"{repository} exists and is public; make it private on its page, or leave out --private")
        if revision is not None:
            api.create_branch(**where, branch=revision, exist_ok=True)
        head = api.repo_info(**where, revision=branch).sha
        tagged = None if tag is None else _commit_of(api, where, tag)
        there = _tree(api, where, head)
        changed = [name for name, path in files.items() if not _is_same(path, there.get(name))]
        gone = [name for name in there if name not in files and ours(name)]
        if tagged is not None and (changed or gone or tagged != head):
            raise InputError(f"{repository} has a tag {tag} already, of something else; choose another --tag")
        if changed or gone:
            operations = [CommitOperationAdd(name, files[name]) for name in changed]
            removals = [CommitOperationDelete(name) for name in gone]
            # With its parent, so that what somebody else commits meanwhile is not undone unseen.
            done = api.create_commit(
                **where,
                operations=[*operations, *removals],
                commit_message=message,
                revision=branch,
                parent_commit=head,
            )
            head = done.oid
        if tag is not None and tagged is None:
            api.create_tag(**where, tag=tag, revision=head)
    return Upload(url, str(head), changed, gone)


def _commit_of(api: HfApi, where: Mapping[str, Any], revision: str) -> str | None:
    try:
        return api.repo_info(**where, revision=revision).sha
    except hub_errors.RevisionNotFoundError:
        return None


def _tree(api: HfApi, where: Mapping[str, Any], commit: str | None) -> dict[str, RepoFile]:
    try:
        entries = list(api.list_repo_tree(**where, recursive=True, revision=commit))
    except _ABSENT:  # a repository without any commit
        return {}
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _is_same(path: Path, there: RepoFile | None) -> bool:
    """By size and by the hash that the Hub keeps: SHA-256 of a large file, git's of a small one."""
    if there is None or there.size != path.stat().st_size:
        return False
    if there.lfs is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == there.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == there.blob_id


@contextmanager
def _answers(repository: str, kind: str) -> Iterator[None]:
    """Turns what goes wrong on the way into one line that says what to do."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the library raises its own types, those of its HTTP library, and RuntimeError around
        cause = _cause(error)
        if not isinstance(cause, OSError | ValueError | hub_errors.HTTPError):
            raise
        raise InputError(_say(cause, repository, kind)) from error


def _cause(error: BaseException) -> BaseException:
    """What is behind the RuntimeError that says only which file was being sent."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _say(error: BaseException, repository: str, kind: str) -> str:
    """What has another remedy when something is sent; the rest as everywhere."""
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be sent; unset it"
    said = " ".join(str(getattr(error, "server_message", None) or error).split())
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the Hub refuses your token: log in with `hf auth login`, or set HF_TOKEN to one that may write"
    if status == 409:
        return f"{repository} cannot be made ({said}); choose another name"
    if status == 412:
        return f"somebody else changed {repository} meanwhile; look at it, then run the same again"
    if isinstance(error, ValueError) and "metadata in README.md" in str(error):
        return f"the Hub rejects the card of the {kind}: {' '.join(str(error).split()[4:])}"
    if status is None:
        reason = f"{type(error).__name__}: {said}"
        return f"the connection to the Hub broke ({reason}): run the same again; {_AS_IT_WAS}"
    return f"{hub_problem(error, repository, kind)}; {_AS_IT_WAS}"
