"""Nested Arrow columns as flat numpy arrays, without Python objects in between."""

import numpy as np
import pyarrow as pa


def flat_values(table: pa.Table, name: str) -> np.ndarray:
    """All values of a (nested) list column, without any nesting; null rows are left out."""
    array = table[name].combine_chunks()
    while pa.types.is_nested(array.type):
        array = array.flatten()  # respects offsets
    return array.to_numpy(zero_copy_only=False)


def list_column(table: pa.Table, name: str) -> list[np.ndarray | None]:
    """A list column as one array per row: (n,), or (n, 3) for lists of vectors; None where the row is null."""
    array = table[name].combine_chunks()
    values = flat_values(table, name)
    if pa.types.is_nested(array.type.value_type):
        values = values.reshape(-1, 3)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = ends - lengths
    return [values[start:end] if ok else None for start, end, ok in zip(starts, ends, valid, strict=True)]
