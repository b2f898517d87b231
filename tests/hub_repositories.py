"""Repositories in memory, as the Hub of the tests keeps them: commits, branches and tags, hashes, listings."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

DATE = "2026-01-01T00:00:00.000Z"


class HubError(Exception):
    """An answer with the headers from which `huggingface_hub` makes its exceptions."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": message} | body
        self.headers = {"X-Error-Message": message} | ({} if code is None else {"X-Error-Code": code})


@dataclass
class Commit:
    oid: str
    title: str
    files: dict[str, bytes]
    lfs: frozenset[str]  # paths whose content is in the large file storage
    parent: str | None


class Repository:
    """Commits, and the branches and tags that name them."""

    def __init__(self, kind: str, name: str, private: bool) -> None:
        self.kind, self.name, self.private = kind, name, private
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.commit("main", "initial commit", {}, frozenset())

    def commit(self, branch: str, title: str, files: dict[str, bytes], lfs: frozenset[str]) -> Commit:
        parent = self.branches.get(branch)
        content = json.dumps([self.kind, self.name, parent, len(self.commits), title, sorted(files)])
        new = Commit(hashlib.sha1(content.encode()).hexdigest(), title, files, lfs, parent)
        self.commits[new.oid] = new
        self.branches[branch] = new.oid
        return new

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a hash names."""
        revision = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    @property
    def files(self) -> dict[str, bytes]:
        """Content by path, on main."""
        return self.at("main").files

    def entry(self, commit: Commit, path: str) -> dict[str, Any]:
        """A file as the listing of a tree shows it."""
        content = commit.files[path]
        entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if path in commit.lfs:
            entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
        return entry

    def tree(self, commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in sorted(commit.files) if path.startswith(prefix)]
        if folder and not inside:
            raise HubError(404, f"{folder} does not exist on {commit.oid}", "EntryNotFound")
        entries: dict[str, dict[str, Any]] = {}
        for path in inside:
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts)) if recursive else range(1, min(2, len(parts))):
                name = prefix + "/".join(parts[:depth])
                entries.setdefault(name, {"type": "directory", "path": name, "size": 0, "oid": git_oid(name.encode())})
            if recursive or len(parts) == 1:
                entries[path] = self.entry(commit, path)
        return list(entries.values())

    def info(self, commit: Commit) -> dict[str, Any]:
        siblings = [{"rfilename": path, "size": len(content)} for path, content in sorted(commit.files.items())]
        try:
            card = front_matter(commit.files.get("README.md", b"").decode("utf-8", "replace"))
        except (yaml.YAMLError, TypeError):  # pushed with git, past the check of the metadata
            card = {}
        return {
            "id": self.name,
            "modelId": self.name,
            "author": self.name.split("/")[0],
            "sha": commit.oid,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": card.get("tags") or [],
            "cardData": card,
            "siblings": siblings,
            "createdAt": DATE,
            "lastModified": DATE,
        }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_oid(content: bytes) -> str:
    """The hash by which git knows a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def prefix(kind: str) -> str:
    return "" if kind == "model" else f"{kind}s/"


def front_matter(card: str) -> dict[str, Any]:
    """The metadata of a card; raises where they are no mapping."""
    match = re.match(r"---\r?\n(.*?)\r?\n---\s*(\n|$)", card, re.DOTALL)
    values = yaml.safe_load(match[1]) if match else {}
    if not isinstance(values or {}, dict):
        raise TypeError("the metadata is no mapping")
    return values or {}
