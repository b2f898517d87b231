"""Whether the Hub takes a card: it alone knows what may stand in the header."""

import json
from pathlib import Path

from huggingface_hub import RepoCard

from ..errors import InputError


def require_accepted(card: Path, kind: str) -> None:
    """
    Raises:
        [`InputError`]: the Hub rejects the header; with its words.
    """
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
