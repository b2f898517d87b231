"""What must not leave this machine: where folders lie here, secrets, and in rows of a data set what is not ours."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..data.columns import open_rows
from ..data.structures import STRUCTURE_FEATURES
from ..errors import InputError, one_line
from ..hub_access import is_local
from ..markdown import unescaped

_START = r"(?:file://)?(?:~[\w-]*/|\.{0,2}/(?!/)|[A-Za-z]:[\\/](?!/)|\\\\(?=\w))"
_WHOLE_PATH = re.compile(_START)
_PATH_IN_TEXT = re.compile(rf"(?<![^\s=,:;'\"`(\[{{|<>@]){_START}[^\s,;:'\"`)\]}}|<>]*")
_SECRET_NAME = re.compile(
    r"(^|[_-])(token|pass(word|wd|phrase)?|pwd|secrets?|credentials?|cookie|auth(orization)?|(api|access|private)[_-]?key|"
    r"host[_-]?name|user([_-]?name)?|login|e?mail)$",
    re.IGNORECASE,
)
# Of the rules of gitleaks (https://github.com/gitleaks/gitleaks, MIT) those for keys that are known by their form, and
# accounts on a machine. Arrow understands these expressions too, which look neither back nor ahead.
_SECRETS = (
    *(r"\bhf_[A-Za-z0-9]{10,}", r"\bapi_org_[A-Za-z0-9]{20,}"),  # Hugging Face
    *(r"\bgh[pousr]_[A-Za-z0-9]{16,}", r"\bgithub_pat_\w{16,}", r"\bglpat-[\w-]{16,}"),  # GitHub, GitLab
    *(r"\b(A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b", r"\bAIza[\w-]{35}"),  # Amazon, Google
    *(r"\bsk-[A-Za-z0-9][\w-]{18,}", r"\b[sr]k_(live|test)_[A-Za-z0-9]{10,}"),  # OpenAI, Anthropic, Stripe
    *(
        r"\bxox[abeoprs]-[\w-]{10,}",
        r"\bnpm_[A-Za-z0-9]{36}",
        r"\bpypi-AgE[\w-]{20,}",
        r"\bSG\.[\w-]{16,}\.[\w-]{16,}",
    ),
    r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",  # JSON web tokens
    r"-----BEGIN[A-Z0-9 _-]{0,100}(KEY|CERTIFICATE)[A-Z -]*-----([^-]+-----END[A-Z0-9 -]*-----)?",
    r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]+@",  # a password in an address
    r"\b[\w.+-]+@[A-Za-z][\w-]*(:|(\.[A-Za-z][\w-]*)+)",  # an account on a machine, or an address of mail
)
_TOKEN_IN_ROWS = "|".join(_SECRETS)
_TOKEN = re.compile(_TOKEN_IN_ROWS)
_NO_TEXTS = (".safetensors", ".parquet", ".png")
_PNG = b"\x89PNG\r\n\x1a\n"
_OF_A_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"sBIT", b"bKGD")
_OUR_NOTES = {b"huggingface", b"ARROW:schema", b"content_defined_chunking"}  # the last two are of libraries' writers
_NOTES_OF_FIELDS = {b"PARQUET:field_id"}
# In the expressions of Arrow, which look neither back nor ahead.
_PATH_IN_ROWS = r"(^|[\s=,;'\"`(\[{<>@|])(~[\w-]*|[A-Za-z]:|\\)?[/\\]|//|(^|[/\\\s=])\.\.[/\\]"
_NAMES_OF_FOLDERS = ("dataset", "initial_model", "model", "output_dir", "logging_dir", "resumed_from")


def last_name(path: str) -> str:
    """The last name of a path of any system; of a root, which has none, the path."""
    names = [name for name in re.split(r"[\\/]", path) if name not in ("", ".", "..", "~")]
    return names[-1] if names else path


def publishable_text(text: str) -> str:
    """`text` with each local path in it reduced to its last name, and without tokens."""
    return _TOKEN.sub(_hidden, _PATH_IN_TEXT.sub(lambda found: last_name(found.group()), text))


def _hidden(found: re.Match[str]) -> str:
    """What stands where a secret was; of a token of the Hub, what it was."""
    return "hf_..." if found.group().startswith("hf_") else "..."


def publishable(value: Any, name: str = "") -> Any:
    """
    Values of JSON or YAML with each local path in them, keys included, reduced to its last name, and without what is
    named like a secret. `name` is the key of `value`; a folder that is named by a relative path is told from a Hub id
    by it.
    """
    if isinstance(value, Mapping):
        kept = {key: one for key, one in value.items() if not _SECRET_NAME.search(str(key))}
        return {_publishable_key(key): publishable(one, str(key)) for key, one in kept.items()}
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


def _publishable_key(key: Any) -> Any:
    return publishable(key) if isinstance(key, str) else key


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


def local_names(names: Iterable[Any], public: Collection[str]) -> set[str]:
    """
    Folders of this machine that must stand in no text, for [`require_nothing_private`]: the home folder and those of
    `names` that are one, as they are written, absolute, and where their links lead.

    Args:
        public (`Collection[str]`):
            Names that a folder may have and that are in every card, such as that of the repository.
    """
    texts = [str(Path.home()), *(str(one) for one in names if isinstance(one, str | Path) and is_local(one))]
    paths = [Path(text).expanduser() for text in texts]
    found = {*texts, *(str(path.absolute()) for path in paths), *(str(path.resolve()) for path in paths)}
    return {text for text in found if os.path.normpath(text) not in public}


def require_nothing_private(
    files: Iterable[tuple[str, Path]], folders: Iterable[str], secrets: Iterable[str] = ()
) -> None:
    """The last look at what goes out. What is still there was not understood, so it is not rewritten but refused.

    Args:
        files (`Iterable[tuple[str, Path]]`): Name in the repository and file; pictures and numbers are not looked at.
        folders (`Iterable[str]`):
            Of this machine, absolute or as somebody named them. A single name, which tells nothing, is left out.
        secrets (`Iterable[str]`, defaults to `()`): What must not be in any text, such as the token.

    Raises:
        [`InputError`]: A text has one of them, or any token.
    """
    whole = [folder for folder in folders if folder]
    # Of a name with a space, which ends a path within a text, cleaning takes the first half alone.
    halves = [publishable_text(folder) for folder in whole if re.search(r"\s", folder)]
    paths = [os.path.normpath(_on_one_line(folder)) for folder in [*whole, *halves]]
    named = [re.escape(path) for path in paths if len(Path(path).parts) > 1]
    at_home = re.compile(rf"(?<![\w.-])(?:{'|'.join(named)})(?![\w-])") if named else None
    wanted = [secret for secret in secrets if len(secret) > 1]
    for name, path in files:
        if path.suffix in _NO_TEXTS:
            continue
        text = _readings(path.read_text(encoding="utf-8"))
        if _TOKEN.search(text) or any(secret in text for secret in wanted):
            raise InputError(f"{name} would publish a token; remove it from {path.name}")
        found = at_home.search(text) if at_home is not None else None
        if found is not None:
            raise InputError(
                f"{name} would publish a folder of this machine ({found.group()}); remove it from what it was made of"
            )


def _readings(text: str) -> str:
    """`text` on one line, and on another as it was before JSON, YAML or Markdown escaped characters."""
    return "\n".join(_on_one_line(one) for one in (text, unescaped(text).replace("''", "'")))


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def copy_png(path: Path, target: Path) -> None:
    """
    Copies a picture without what is appended to it or noted in it. A name is no proof: a key, or a link to one, that
    is called parity.png stays home too.

    Raises:
        [`InputError`]: It is no PNG picture.
    """
    content, place, kept = path.read_bytes(), len(_PNG), [_PNG]
    while content.startswith(_PNG) and place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        kind = content[place + 4 : place + 8]
        kept += [content[place:end]] if kind in _OF_A_PICTURE else []
        place = end
        if kind == b"IEND" and end <= len(content):
            target.write_bytes(b"".join(kept))
            return
    raise InputError(f"{path} is no PNG picture; remove it, or draw it again")


def require_publishable_rows(path: Path) -> None:
    """
    Raises:
        [`InputError`]: The file is damaged, has other columns than `STRUCTURE_FEATURES`, or a text in it names a
            folder of this machine or is a token; the line names the column.
    """
    try:
        file = open_rows(path)
        _require_our_schema(path, file)
        texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
        for batch in file.iter_batches(columns=texts):
            for name in texts:
                _require_no_local_names(path, name, _flat(batch.column(name)))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged: {one_line(error)}") from error


def _require_our_schema(path: Path, file: pq.ParquetFile) -> None:
    """Columns and notes of others may hold anything; they would go out unseen."""
    for name in file.schema_arrow.names:
        if name not in STRUCTURE_FEATURES:
            raise InputError(f"{path}: the column {name} is none of a data set of structures; leave it out")
    for key, value in _metadata(file):
        if key not in _OUR_NOTES:
            raise InputError(
                f"{path}: its schema has notes of another program ({key.decode('utf-8', 'replace')}); import the "
                "files again with data_scripts/import_structures.py"
            )
        text = value.decode("utf-8", "replace")
        if key == b"huggingface" and (re.search(_TOKEN_IN_ROWS, text) or re.search(r'"(/|~|[A-Za-z]:\\|\.\.)', text)):
            raise InputError(f"{path}: the notes of its schema name a folder of this machine or a token")


def _metadata(file: pq.ParquetFile) -> Iterator[tuple[bytes, bytes]]:
    yield from (file.metadata.metadata or {}).items()
    yield from (file.schema_arrow.metadata or {}).items()
    for field in file.schema_arrow:
        yield from ((key, value) for key, value in (field.metadata or {}).items() if key not in _NOTES_OF_FIELDS)


def _is_text(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)


def _flat(column: pa.Array) -> pa.Array:
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    return column.cast(pa.string()).drop_null()


def _require_no_local_names(path: Path, name: str, texts: pa.Array) -> None:
    if pc.any(pc.match_substring_regex(texts, _TOKEN_IN_ROWS)).as_py():
        raise InputError(f"{path.name}: the column {name} holds a token; take it out and import the files again")
    found = texts.filter(pc.match_substring_regex(texts, _PATH_IN_ROWS))
    if len(found):
        raise InputError(
            f"{path.name}: the column {name} names a folder of this machine ({found[0]}); import the files again "
            "with their names alone"
        )
