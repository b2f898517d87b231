"""What must not leave this machine with a file that is published: where folders lie here, and secrets."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..locations import is_local

_START = r"(?:file://)?(?:~[\w-]*/|\.{0,2}/(?!/)|[A-Za-z]:[\\/](?!/))"
_WHOLE_PATH = re.compile(_START)
_PATH_IN_TEXT = re.compile(rf"(?<![^\s=,:;'\"`(\[{{|]){_START}[^\s,;:'\"`)\]}}|<>]*")
_SECRET_NAME = re.compile(r"(^|[_-])(token|password|passwd|secret|credentials?|api[_-]?key)$", re.IGNORECASE)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{10,}\b")
_PNG = b"\x89PNG\r\n\x1a\n"
_NAMES_OF_FOLDERS = ("dataset", "initial_model", "model", "output_dir", "logging_dir", "resumed_from")


def last_name(path: str) -> str:
    """The last name of a path of any system; of a root, which has none, the path."""
    names = [name for name in re.split(r"[\\/]", path) if name not in ("", ".", "..", "~")]
    return names[-1] if names else path


def publishable_text(text: str) -> str:
    """`text` with each local path in it reduced to its last name, and without tokens."""
    return _TOKEN.sub("hf_...", _PATH_IN_TEXT.sub(lambda found: last_name(found.group()), text))


def publishable(value: Any, name: str = "") -> Any:
    """
    Values of JSON or YAML with each local path in them reduced to its last name, and without what is named like a
    secret. `name` is the key of `value`; a folder that is named by a relative path is told from a Hub id by it.
    """
    if isinstance(value, Mapping):
        return {key: publishable(one, str(key)) for key, one in value.items() if not _SECRET_NAME.search(str(key))}
    if isinstance(value, list | tuple):
        return [publishable(one) for one in _without_secret_options(list(value))]
    if not isinstance(value, str):
        return value
    if name in _NAMES_OF_FOLDERS and value and is_local(value):
        return publishable_text(last_name(value))
    option, equals, rest = value.partition("=") if value.startswith("-") else ("", "", value)
    if _WHOLE_PATH.match(rest) and "\n" not in rest:  # its names may have spaces, which end a path within a text
        return publishable_text(option + equals + last_name(rest))
    return publishable_text(value)


def _without_secret_options(words: list[Any]) -> list[Any]:
    """A command line without `--hub_token X`."""
    kept: list[Any] = []
    skip = False
    for word in words:
        option = isinstance(word, str) and word.startswith("--")
        secret = option and bool(_SECRET_NAME.search(word.partition("=")[0]))
        if not secret and not (skip and not option):
            kept.append(word)
        skip = secret and "=" not in word
    return kept


def require_nothing_private(files: Iterable[tuple[str, Path]], secrets: Iterable[str]) -> None:
    """The last look at what goes out; raises [`InputError`] where a text file holds one of `secrets` or any token."""
    wanted = [secret for secret in secrets if len(secret) > 1]
    for name, path in files:
        if path.suffix not in (".json", ".yaml", ".md"):
            continue
        text = path.read_text(encoding="utf-8")
        if _TOKEN.search(text) or any(secret in text for secret in wanted):
            raise InputError(f"{name} would publish a token or a folder of this machine; remove it from {path.name}")


def require_png(path: Path) -> None:
    """A name is no proof: a key, or a link to one, that is called parity.png stays home too."""
    with path.open("rb") as file:
        if file.read(len(_PNG)) != _PNG:
            raise InputError(f"{path} is no PNG picture; remove it, or draw it again")
