"""What a repository holds, and whether a file there is the one here."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

_ABSENT = (RevisionNotFoundError, EntryNotFoundError)


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
