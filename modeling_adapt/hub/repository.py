"""One commit with what differs from what is there."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from ..errors import InputError
from ..loading import HEADS
from .answers import AS_IT_WAS, answers
from .refs import require_apart

_ABSENT = (RevisionNotFoundError, EntryNotFoundError)


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
    private_if_new: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    ours: Callable[[str], bool] = lambda name: False,
    untested: str | None = None,
) -> Upload:
    """Makes the repository where it does not exist, and brings it to hold `files` in one commit, or in none.

    Large files go up before the commit, and those that are there are not sent again; so an upload that broke off goes
    on, and nobody sees half of it.

    Args:
        repository: `organisation/name`.
        files: name in the repository -> file.
        kind: "model" or "dataset".
        private: the repository must be private.
        private_if_new: it is made private where it does not exist.
        revision: branch; made where it does not exist. By default main.
        tag: name for the commit.
        ours: whether a file that is there and not in `files` is to be removed.
        untested: folder with a model that must not stay where `files` has none for it.

    Raises:
        [`InputError`]: the Hub refuses, or cannot be reached, or what is there is something else; the line says what
            to do, and whether the files are there.
    """
    where: dict[str, Any] = {"repo_id": repository, "repo_type": kind}
    branch = revision or "main"
    with answers(repository, kind, AS_IT_WAS):
        url = _made(api, where, private, private_if_new)
        refs = api.list_repo_refs(**where)
        branches, tags = ({ref.name for ref in one} for one in (refs.branches, refs.tags))
        require_apart(tag, branch, branches, tags, repository)
        if revision is not None and revision not in branches:
            api.create_branch(**where, branch=revision, exist_ok=True)
        head = api.repo_info(**where, revision=branch).sha
        tagged = api.repo_info(**where, revision=tag).sha if tag in tags else None
        there = _tree(api, where, head)
        changed = [name for name, path in files.items() if not _is_same(path, there.get(name))]
        if kind == "model" and "config.json" in there and "config.json" in changed:
            _require_adapt(api, repository, head)
        if untested is not None and _has(there, untested) and not _has(files, untested):
            raise InputError(
                f"{repository} has a second model in {untested}/, which nobody has tested with the new code: name it "
                f"too (--{untested}), or delete the folder {untested} on the page of the repository"
            )
        gone = [name for name in there if name not in files and ours(name)]
        if tagged is not None and (changed or gone or tagged != head):
            raise InputError(f"{repository} has a tag {tag} already, of something else; choose another --tag")
    if changed or gone:
        head = _committed(api, where, branch, {name: files[name] for name in changed}, gone, message, head)
    if tag is not None and tagged is None:
        with answers(
            repository, kind, f"the files are there, but the tag {tag} may be missing: run the same command again"
        ):
            api.create_tag(**where, tag=tag, revision=head)
    return Upload(url, str(head), changed, gone)


def is_private(api: HfApi, repository: str) -> bool:
    """Whether there is a model of that name which not everybody may see."""
    with answers(repository, "model", AS_IT_WAS):
        try:
            return bool(api.repo_info(repository, repo_type="model").private)
        except RepositoryNotFoundError:
            return False


def _made(api: HfApi, where: Mapping[str, Any], private: bool, private_if_new: bool) -> str:
    """Address of the repository, which exists now; as private as it must be."""
    repository, kind = where["repo_id"], where["repo_type"]
    try:
        url = str(api.create_repo(**where, private=private or private_if_new or None, exist_ok=True))
    except KeyError:  # the name is taken, and the Hub does not say by what
        url = f"{api.endpoint}/{repository}"
    try:
        info = api.repo_info(**where)
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{repository} cannot be a {kind}: the name is taken by something else; choose another name"
        ) from error
    if private and not info.private:
        raise InputError(f"{repository} exists and is public; make it private on its page, or leave out --private")
    return url


def _committed(
    api: HfApi,
    where: Mapping[str, Any],
    branch: str,
    changed: Mapping[str, Path],
    gone: list[str],
    message: str,
    head: str | None,
) -> str | None:
    """The hash of the new commit, also where its answer was lost on the way."""
    operations = [CommitOperationAdd(name, path) for name, path in changed.items()]
    removals = [CommitOperationDelete(name) for name in gone]
    with answers(where["repo_id"], where["repo_type"], lambda: _said_of(api, where, branch, head)):
        try:
            # With its parent, so that what somebody else commits meanwhile is not undone unseen.
            return api.create_commit(
                **where,
                operations=[*operations, *removals],
                commit_message=message,
                revision=branch,
                parent_commit=head,
            ).oid
        except Exception:
            found = _head(api, where, branch)
            if found in (None, head):
                raise
            there = _tree(api, where, found)
            if any(name in there for name in gone) or not all(
                _is_same(path, there.get(n)) for n, path in changed.items()
            ):
                raise
            return found


def _said_of(api: HfApi, where: Mapping[str, Any], branch: str, head: str | None) -> str:
    """Whether a commit that failed left anything, as far as the Hub can be asked."""
    if _head(api, where, branch) == head:
        return AS_IT_WAS
    return "whether the files are there is not known: run the same command again, which finds out"


def _head(api: HfApi, where: Mapping[str, Any], branch: str) -> str | None:
    try:
        return api.repo_info(**where, revision=branch).sha
    except Exception:  # the line is about the first failure, not about the one of asking
        return None


def _has(names: Mapping[str, Any], folder: str) -> bool:
    return any(name.startswith(f"{folder}/") for name in names)


def _require_adapt(api: HfApi, repository: str, commit: str | None) -> None:
    """What would be replaced is an earlier upload, and not the work of somebody else."""
    with tempfile.TemporaryDirectory(prefix="adapt-config-") as folder:
        path = api.hf_hub_download(repository, "config.json", revision=commit, local_dir=folder)
        try:
            config = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:
            config = None
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in HEADS:
        raise InputError(f"{repository} holds another model (its model_type is {found!r}); choose another name")


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
