"""One commit with what differs from what is there: first it is looked at whether that may be, then it is sent."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import logging

from ..errors import InputError
from .repository import AS_IT_WAS, CARD, answers, files_there, is_same, require_accepted, require_apart, require_ours

_HUB = "https://huggingface.co"
_MESSAGES = {"model": "Upload ADAPT model", "dataset": "Upload data set", "space": "Upload Space"}  # of commits


@dataclass(frozen=True)
class Publication:
    """
    What a repository is to be.

    Args:
        repository (`str`): `organisation/name`.
        files (`Mapping[str, Path]`): Name in the repository -> file; a README.md is among them.
        kind (`str`, defaults to `"model"`): "model", "dataset" or "space".
        private (`bool`, defaults to `False`): It must be private.
        private_if_new (`bool`, defaults to `False`): It is made private where it does not exist.
        revision (`str`, *optional*): Branch; made where it does not exist. By default main.
        tag (`str`, *optional*): Name for the commit.
        ours (`Callable[[str], bool]`, *optional*): Whether a file that is there and not in `files` is to be removed.
        untested (`str`, *optional*): Folder with a model that must not stay where `files` has none for it.
    """

    repository: str
    files: Mapping[str, Path]
    kind: str = "model"
    private: bool = False
    private_if_new: bool = False
    revision: str | None = None
    tag: str | None = None
    ours: Callable[[str], bool] = lambda name: False
    untested: str | None = None

    @property
    def where(self) -> dict[str, Any]:
        return {"repo_id": self.repository, "repo_type": self.kind}

    @property
    def branch(self) -> str:
        return self.revision or "main"


@dataclass(frozen=True)
class State:
    """
    What is there, and what an upload would do to it.

    Args:
        url (`str`): Of the repository.
        exists, private (`bool`, defaults to `False`):
            Whether it is there, and private; where it does not exist it is not private.
        head (`str`, *optional*): The commit that the branch names, or will name when it is made.
        makes_branch, tags (`bool`, defaults to `False`): Whether the branch, and the tag, are still to be made.
        changed (`list[str]`, defaults to `[]`): Files that are new or different.
        gone (`list[str]`, defaults to `[]`): Files of an earlier upload that are no longer part of it.
    """

    url: str
    exists: bool = False
    private: bool = False
    head: str | None = None
    makes_branch: bool = False
    tags: bool = False
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    @property
    def is_up_to_date(self) -> bool:
        return self.exists and not (self.makes_branch or self.tags or self.changed or self.gone)


def connect() -> HfApi:
    """
    The Hub, with the token of whoever is logged in; nothing is asked yet.

    Raises:
        [`InputError`]: Nobody is.
    """
    token = get_token()
    if token is None:
        raise InputError("no token: log in with `hf auth login`, or set HF_TOKEN to a token that may write")
    # Xet is a service of the real Hub; other servers that speak its endpoints, such as a mirror, know only LFS.
    if constants.ENDPOINT != _HUB and "HF_HUB_DISABLE_XET" not in os.environ:
        constants.HF_HUB_DISABLE_XET = True
    logging.set_verbosity_error()  # it says each new try on a line of its own; what stays wrong is one line
    return HfApi(token=token)


def publish(api: HfApi, model: Publication, rows: Publication | None = None) -> Iterator[State]:
    """
    Brings the repository of a model up to date, and that of its data set; or one of any kind alone. What can be
    refused is asked of both before anything goes up; then the data set is first, so that no card names one that is not
    there.

    Args:
        rows ([`Publication`], *optional*): The data set; it becomes as private as the model, where it is new.

    Raises:
        [`InputError`]: As [`look`], [`make`] and [`send`].
    """
    wanted = [(model, look(api, model))]
    if rows is not None:
        rows = replace(rows, private_if_new=wanted[0][1].private)
        wanted.append((rows, look(api, rows)))
    wanted = [(one, make(api, one, state)) for one, state in wanted]
    for one, state in reversed(wanted):
        yield send(api, one, state, _MESSAGES[one.kind])


def look(api: HfApi, what: Publication) -> State:
    """Asks the Hub and changes nothing there.

    Raises:
        [`InputError`]: The Hub refuses, or cannot be reached, or what is there is something else, or may not be
            changed; the line says what to do.
    """
    with answers(what.repository, what.kind, AS_IT_WAS):
        url = f"{api.endpoint}/{'' if what.kind == 'model' else what.kind + 's/'}{what.repository}"
        try:
            info = api.repo_info(**what.where)
        except RepositoryNotFoundError:
            require_accepted(what.files[CARD], what.kind)
            return State(url, makes_branch=what.revision is not None, tags=what.tag is not None)
        if what.private and not info.private:
            raise InputError(
                f"{what.repository} exists and is public; make it private on its page, or leave out --private"
            )
        state = _differences(api, what, url, bool(info.private))
        if not state.is_up_to_date:
            _require_write(api, what, state)
        if CARD in state.changed:
            require_accepted(what.files[CARD], what.kind)
        return state


def make(api: HfApi, what: Publication, state: State) -> State:
    """Makes the repository and the branch where they do not exist; what is there then.

    Raises:
        [`InputError`]: As [`look`], or the Hub has something else of that name.
    """
    with answers(what.repository, what.kind, AS_IT_WAS):
        if not state.exists:
            _create(api, what)
            state = look(api, what)
        if state.makes_branch:
            api.create_branch(**what.where, branch=what.branch, exist_ok=True)
    return state


def send(api: HfApi, what: Publication, state: State, message: str) -> State:
    """
    Brings a repository that is there to hold the files, in one commit or in none, and tags it. Returns what was done,
    with the commit that is there now as its head.

    Large files go up before the commit, and those that are there are not sent again; so an upload that broke off goes
    on, and nobody sees half of it.

    Raises:
        [`InputError`]: The Hub refuses, or cannot be reached; the line says what to do, and whether the files are
            there.
    """
    head = state.head
    if state.changed or state.gone:
        head = _committed(api, what, state, message)
    if state.tags:
        left = f"the files are there, but the tag {what.tag} may be missing: run the same command again"
        with answers(what.repository, what.kind, left):
            api.create_tag(**what.where, tag=str(what.tag), revision=head)
    return replace(state, head=head)


def _differences(api: HfApi, what: Publication, url: str, private: bool) -> State:
    refs = api.list_repo_refs(**what.where)
    branches, tags = ({ref.name for ref in one} for one in (refs.branches, refs.tags))
    require_apart(what.tag, what.branch, branches, tags, what.repository)
    makes_branch = what.revision is not None and what.revision not in branches
    # A new branch starts from main.
    head = api.repo_info(**what.where, revision="main" if makes_branch else what.branch).sha
    tagged = api.repo_info(**what.where, revision=what.tag).sha if what.tag in tags else None
    there = files_there(api, what.where, head)
    require_ours(api, what.where, head, there)
    changed = [name for name, path in what.files.items() if not is_same(path, there.get(name))]
    if what.untested is not None and _has(there, what.untested) and not _has(what.files, what.untested):
        raise InputError(
            f"{what.repository} has a second model in {what.untested}/, which nobody has tested with the new code: "
            f"name it too (--{what.untested}), or delete the folder {what.untested} on the page of the repository"
        )
    gone = [name for name in there if name not in what.files and what.ours(name)]
    if tagged is not None and (changed or gone or tagged != head):
        raise InputError(f"{what.repository} has a tag {what.tag} already, of something else; choose another --tag")
    tag = what.tag is not None and tagged is None
    return State(url, True, private, head, makes_branch, tag, changed, gone)


def _require_write(api: HfApi, what: Publication, state: State) -> None:
    """Asks how a small file would be sent, which the Hub tells only to those who may send it."""
    card = CommitOperationAdd(CARD, what.files[CARD])
    api.preupload_lfs_files(
        what.repository, [card], repo_type=what.kind, revision="main" if state.makes_branch else what.branch
    )


def _create(api: HfApi, what: Publication) -> None:
    try:
        private = what.private or what.private_if_new or None
        sdk = "gradio" if what.kind == "space" else None
        api.create_repo(**what.where, private=private, space_sdk=sdk, exist_ok=True)
    except KeyError:  # the name is taken, and the Hub does not say by what
        pass
    try:
        api.repo_info(**what.where)
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{what.repository} cannot be a {what.kind}: the name is taken by something else; choose another name"
        ) from error


def _committed(api: HfApi, what: Publication, state: State, message: str) -> str | None:
    """The hash of the new commit, also where its answer was lost on the way."""
    changed = {name: what.files[name] for name in state.changed}
    operations = [CommitOperationAdd(name, path) for name, path in changed.items()]
    removals = [CommitOperationDelete(name) for name in state.gone]
    with answers(what.repository, what.kind, lambda: _said_of(api, what, state.head)):
        try:
            # With its parent, so that what somebody else commits meanwhile is not undone unseen.
            return api.create_commit(
                **what.where,
                operations=[*operations, *removals],
                commit_message=message,
                revision=what.branch,
                parent_commit=state.head,
            ).oid
        except Exception:
            found = _head(api, what)
            if found in (None, state.head):
                raise
            there = files_there(api, what.where, found)
            if any(name in there for name in state.gone):
                raise
            if not all(is_same(path, there.get(name)) for name, path in changed.items()):
                raise
            return found


def _said_of(api: HfApi, what: Publication, head: str | None) -> str:
    """Whether a commit that failed left anything, as far as the Hub can be asked."""
    if _head(api, what) == head:
        return AS_IT_WAS
    return "whether the files are there is not known: run the same command again, which finds out"


def _head(api: HfApi, what: Publication) -> str | None:
    try:
        return api.repo_info(**what.where, revision=what.branch).sha
    except Exception:  # the line is about the first failure, not about the one of asking
        return None


def _has(names: Mapping[str, Any], folder: str) -> bool:
    return any(name.startswith(f"{folder}/") for name in names)
