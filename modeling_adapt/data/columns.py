"""Rows of a data set as Arrow tables, and nested columns as flat numpy arrays, without Python objects in between."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_READ = 1000


def tables(rows: datasets.Dataset) -> Iterator[tuple[int, pa.Table]]:
    """`rows` in pieces of at most `ROWS_PER_READ`, each with the number of its first row."""
    arrow = rows.with_format("arrow")
    for start in range(0, len(rows), ROWS_PER_READ):
        yield start, arrow[start : start + ROWS_PER_READ]


class ArrayRows:
    """Rows as dictionaries of arrays in float64, again and again; many times as fast as iterating over the data set.

    They have the columns that [`fit_domain`] reads.
    """

    def __init__(self, rows: datasets.Dataset) -> None:
        lists, fixed = ("atomic_numbers", "positions", "forces"), ("cell", "pbc")
        self._rows, self._lists = rows.select_columns([*lists, *fixed, "trajectory", "charge"]), lists

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _, table in tables(self._rows):
            columns: dict[str, Any] = {name: list_column(table, name) for name in self._lists}
            for name in ("positions", "forces"):
                columns[name] = [None if one is None else one.astype(np.float64) for one in columns[name]]
            columns["cell"] = flat_values(table, "cell").reshape(-1, 3, 3)
            columns["pbc"] = flat_values(table, "pbc").reshape(-1, 3)
            columns |= {name: table[name].to_pylist() for name in ("trajectory", "charge")}
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))


def describe_row(row: int, source: str | None) -> str:
    """How an error names a row, by its number and what its column `source` says."""
    return f"row {row} ({source or 'source unknown'})"


def flat_values(table: pa.Table, name: str) -> np.ndarray:
    """All values of a (nested) list column, without any nesting; null rows are left out."""
    return _flat(table[name].combine_chunks())


def list_column(table: pa.Table, name: str) -> list[np.ndarray | None]:
    """A list column as one array per row: (n,), or (n, 3) for lists of vectors; None where the row is null."""
    array = table[name].combine_chunks()
    if array.null_count == len(array):
        return [None] * len(array)
    values = _flat(array)
    if pa.types.is_nested(array.type.value_type):
        values = values.reshape(-1, 3)
    ends = np.cumsum(_lengths(array)).tolist()
    pieces: list[np.ndarray | None] = [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    if array.null_count == 0:
        return pieces
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return [piece if ok else None for piece, ok in zip(pieces, valid, strict=True)]


def list_lengths(table: pa.Table, name: str) -> np.ndarray:
    """The number of elements in each row of a list column, (rows,) integers; 0 where the row is null."""
    return _lengths(table[name].combine_chunks())


def _lengths(array: pa.Array) -> np.ndarray:
    if array.null_count == 0:
        return np.diff(array.offsets.to_numpy())  # a tenth of the time of `value_lengths`
    return array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)


def _flat(array: pa.Array) -> np.ndarray:
    while pa.types.is_nested(array.type):
        array = array.flatten()  # respects offsets
    return array.to_numpy(zero_copy_only=False)


def open_rows(path: str | Path) -> pq.ParquetFile:
    """A parquet file whose pages are held against their checksums as they are read, where it has some, as ours do."""
    return pq.ParquetFile(path, page_checksum_verification=True)
