"""
A repository of the Hub: how it may be called, what is there and whose it is; and what goes wrong with it, as one line
that says what to do and what is there now.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, RepoCard
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from ..errors import InputError, one_line
from ..hub_access import hub_problem, is_broken_connection
from ..loading import HEADS

AS_IT_WAS = "the repository is as it was, and what was sent is not sent again"
CARD = "README.md"
OUR_TAG = "adapt-force-field"  # in the card of every data set and Space that was uploaded
_ABSENT = (RevisionNotFoundError, EntryNotFoundError)
# What git check-ref-format refuses: https://git-scm.com/docs/git-check-ref-format
_NOT_IN_NAMES = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^/|/$|\.$|\.lock(/|$)|(^|/)\.|^@$|^-|^$")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def require_repository_name(name: str) -> None:
    """Raises [`InputError`] for what is not `organisation/name`."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"{name} is no name of a repository: {one_line(error)}") from error
    if not re.fullmatch(r"[^/]+/[^/]+", name):
        raise InputError(f"{name}: name the repository as ORG/NAME, such as my-name/adapt-si")


def require_ref_name(name: str | None, option: str) -> None:
    """Raises [`InputError`] for a name that git has not, or that would mean something else than a branch or tag."""
    if name is None:
        return
    if _NOT_IN_NAMES.search(name) or _COMMIT.fullmatch(name) or name.startswith("refs/") or name == "HEAD":
        raise InputError(f"{option} {name!r}: git takes no such name; choose one like v1")


def require_apart(tag: str | None, branch: str, branches: set[str], tags: set[str], repository: str) -> None:
    """Raises [`InputError`] where one name would mean a branch and a tag: what is loaded by it would be by chance."""
    if tag is not None and tag in branches | {branch}:
        raise InputError(f"{repository} has a branch {tag}; choose another --tag")
    if branch in tags:
        raise InputError(f"{repository} has a tag {branch}; choose another --revision")


def files_there(api: HfApi, where: Mapping[str, Any], commit: str | None) -> dict[str, RepoFile]:
    """Name -> size and hash of every file of a commit."""
    try:
        entries = list(api.list_repo_tree(**where, recursive=True, revision=commit))
    except _ABSENT:  # a repository without any commit
        return {}
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def is_same(path: Path, there: RepoFile | None) -> bool:
    """By size and by the hash that the Hub keeps: SHA-256 of a large file, git's of a small one."""
    if there is None or there.size != path.stat().st_size:
        return False
    if there.lfs is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == there.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == there.blob_id


def require_ours(api: HfApi, where: Mapping[str, Any], commit: str | None, there: Collection[str]) -> None:
    """
    Raises:
        [`InputError`]: The repository holds something, and is no earlier upload. What its page makes when it is
            created, a .gitattributes and a card that has a header alone, is nothing.
    """
    found = sorted(name for name in there if name != ".gitattributes")
    if where["repo_type"] == "model" and "config.json" in found:
        _require_adapt(api, where, commit)
        return
    card = _fetch(api, where, CARD, commit) if CARD in found else ""
    if where["repo_type"] != "model" and OUR_TAG in _tags(card):
        return
    if not _text(card):
        found = [name for name in found if name != CARD]
    if found:
        mark = "there is no config.json" if where["repo_type"] == "model" else f"its card has no tag {OUR_TAG}"
        raise InputError(
            f"{where['repo_id']} is no {where['repo_type']} that an upload wrote (it holds {found[0]}, and {mark}); "
            "choose another name"
        )


def _require_adapt(api: HfApi, where: Mapping[str, Any], commit: str | None) -> None:
    try:
        config = json.loads(_fetch(api, where, "config.json", commit))
    except ValueError:
        config = None
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in HEADS:
        raise InputError(f"{where['repo_id']} holds another model (its model_type is {found!r}); choose another name")


def _fetch(api: HfApi, where: Mapping[str, Any], name: str, commit: str | None) -> str:
    with tempfile.TemporaryDirectory(prefix="adapt-there-") as folder:
        path = api.hf_hub_download(**where, filename=name, revision=commit, local_dir=folder)
        return Path(path).read_text(encoding="utf-8", errors="replace")


def _tags(card: str) -> list[str]:
    try:
        tags = RepoCard(card).data.to_dict().get("tags")
    except Exception:  # a header that is no YAML, or no mapping: it is not one of ours
        return []
    return tags if isinstance(tags, list) else []


def _text(card: str) -> str:
    """What stands below the header."""
    try:
        return str(RepoCard(card).text).strip()
    except Exception:  # as above; then all of it is text
        return card.strip()


@contextmanager
def answers(repository: str, kind: str, state: str | Callable[[], str]) -> Iterator[None]:
    """Turns what the Hub and the way there raise into an [`InputError`].

    Args:
        repository (`str`): `organisation/name`.
        kind (`str`): "model", "dataset" or "space".
        state (`str` or `Callable[[], str]`): What is there after a failure in this block, or what finds it out.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the library raises its own types, those of its HTTP library, and RuntimeError around
        cause = _cause(error)
        if not isinstance(cause, OSError | ValueError | HTTPError):
            raise
        said = state if isinstance(state, str) else state()
        raise InputError(_say(cause, repository, kind, said)) from error


def _cause(error: BaseException) -> BaseException:
    """What is behind the RuntimeError that says only which file was being sent."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _say(error: BaseException, repository: str, kind: str, state: str) -> str:
    """What has another remedy when something is sent; the rest as everywhere."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be sent; unset it"
    said = " ".join(str(getattr(error, "server_message", None) or error).split())
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 409:
        return f"{repository}: the Hub has something of that name ({said}); choose another one; {state}"
    if status == 412:
        return f"somebody else changed {repository} meanwhile; look at it, then run the same again"
    if is_broken_connection(error):
        return f"the connection to the Hub broke ({type(error).__name__}: {said}): run the same again; {state}"
    if status is None and isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be read ({error.strerror}); {state}"
    problem = hub_problem(error, repository, kind) or f"{repository}: {type(error).__name__}: {said}"
    return f"{problem}; {state}"


def require_accepted(card: Path, kind: str) -> None:
    """Raises [`InputError`] where the Hub, which alone knows what may stand in a header, rejects it; in its words."""
    try:
        RepoCard(card.read_text(encoding="utf-8")).validate(repo_type=kind)
    except ValueError as error:  # with the text of the answer
        raise InputError(f"the Hub rejects the card of the {kind}: {_messages(str(error))}") from error


def _messages(answer: str) -> str:
    try:
        found = "; ".join(str(one["message"]) for one in json.loads(answer)["errors"])
    except (ValueError, KeyError, TypeError):  # another server may answer in other words
        found = answer
    return " ".join(found.split())
