"""Whose a repository is: an upload brings an earlier one up to date, and never changes the work of somebody else."""

import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, RepoCard

from ..errors import InputError
from ..loading import HEADS

OUR_TAG = "adapt-force-field"  # in the card of every data set that was uploaded
_CARD = "README.md"


def require_ours(api: HfApi, where: Mapping[str, Any], commit: str | None, there: Collection[str]) -> None:
    """
    Raises:
        [`InputError`]: the repository holds something, and is no earlier upload. What its page makes when it is
            created, a .gitattributes and a card that has a header alone, is nothing.
    """
    found = sorted(name for name in there if name != ".gitattributes")
    if where["repo_type"] == "model" and "config.json" in found:
        _require_adapt(api, where, commit)
        return
    card = _fetch(api, where, _CARD, commit) if _CARD in found else ""
    if where["repo_type"] == "dataset" and OUR_TAG in _tags(card):
        return
    if not _text(card):
        found = [name for name in found if name != _CARD]
    if found:
        mark = f"its card has no tag {OUR_TAG}" if where["repo_type"] == "dataset" else "there is no config.json"
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
