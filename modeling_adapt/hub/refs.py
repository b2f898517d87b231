"""Names of branches and tags, refused before anything is sent rather than by the Hub after the commit."""

import re

from ..errors import InputError

# What git check-ref-format refuses: https://git-scm.com/docs/git-check-ref-format
_NOT_IN_NAMES = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^/|/$|\.$|\.lock(/|$)|(^|/)\.|^@$|^-|^$")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def require_ref_name(name: str, option: str) -> None:
    """Raises [`InputError`] for a name that git has not, or that would mean something else than a branch or tag."""
    if _NOT_IN_NAMES.search(name) or _COMMIT.fullmatch(name) or name.startswith("refs/") or name == "HEAD":
        raise InputError(f"{option} {name!r}: git takes no such name; choose one like v1")


def require_apart(tag: str | None, branch: str, branches: set[str], tags: set[str], repository: str) -> None:
    """Raises [`InputError`] where one name would mean a branch and a tag: what is loaded by it would be by chance."""
    if tag is not None and tag in branches | {branch}:
        raise InputError(f"{repository} has a branch {tag}; choose another --tag")
    if branch in tags:
        raise InputError(f"{repository} has a tag {branch}; choose another --revision")
