"""What must not be in the rows of a published data set: names of this machine, tokens, and what is not ours."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..data.structures import STRUCTURE_FEATURES
from ..errors import InputError, one_line

_START = r"(^|[\s=,;'\"`(\[{<|])"  # of a name within a text
_PATH = rf"{_START}(~[\w-]*|[A-Za-z]:|\\)?[/\\]|//|(^|[/\\\s=])\.\.[/\\]"
_TOKEN = r"\bhf_[A-Za-z0-9]{10,}"
_OURS = {b"huggingface", b"ARROW:schema", b"content_defined_chunking"}  # the last two are of the libraries' writers
_OF_FIELDS = {b"PARQUET:field_id"}


def require_publishable_rows(path: Path) -> None:
    """
    Raises:
        [`InputError`]: the file is damaged, has other columns than `STRUCTURE_FEATURES`, or a text in it names a
            folder of this machine or is a token; the line names the column.
    """
    try:
        file = pq.ParquetFile(path)
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
        if key not in _OURS:
            raise InputError(
                f"{path}: its schema has notes of another program ({key.decode('utf-8', 'replace')}); import the "
                "files again with data_scripts/import_structures.py"
            )
        text = value.decode("utf-8", "replace")
        if key == b"huggingface" and (re.search(_TOKEN, text) or re.search(r'"(/|~|[A-Za-z]:\\|\.\.)', text)):
            raise InputError(f"{path}: the notes of its schema name a folder of this machine or a token")


def _metadata(file: pq.ParquetFile) -> Iterator[tuple[bytes, bytes]]:
    yield from (file.metadata.metadata or {}).items()
    yield from (file.schema_arrow.metadata or {}).items()
    for field in file.schema_arrow:
        yield from ((key, value) for key, value in (field.metadata or {}).items() if key not in _OF_FIELDS)


def _is_text(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)


def _flat(column: pa.Array) -> pa.Array:
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    return column.cast(pa.string()).drop_null()


def _require_no_local_names(path: Path, name: str, texts: pa.Array) -> None:
    if pc.any(pc.match_substring_regex(texts, _TOKEN)).as_py():
        raise InputError(f"{path.name}: the column {name} holds a token; take it out and import the files again")
    found = texts.filter(pc.match_substring_regex(texts, _PATH))
    if len(found):
        raise InputError(
            f"{path.name}: the column {name} names a folder of this machine ({found[0]}); import the files again "
            "with their names alone"
        )
