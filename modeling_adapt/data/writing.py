"""Rows to a parquet data set that `datasets.load_dataset(folder)` reads."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..command_line import finished_folder
from ..errors import InputError
from .structures import STRUCTURE_FEATURES

ROWS_PER_GROUP = 1000  # one parquet row group; about 6 MB of 217-atom structures, which is also the memory needed


def write_dataset(rows_by_split: Mapping[str, Iterable[dict[str, Any]]], folder: str | Path) -> dict[str, int]:
    """Writes `data/<split>-00000-of-00001.parquet` for every split that has rows.

    An error half-way, also one raised by an iterator of rows, leaves nothing behind.

    Args:
        rows_by_split: rows of [`structure_row`] by split name; lists or iterators.
        folder: must not exist or be empty.

    Returns:
        Number of rows written by split.

    Raises:
        InputError: if the folder is not empty or there is no row at all.
    """
    with finished_folder(folder) as unfinished:
        (unfinished / "data").mkdir()
        counts = {split: _write_split(rows, unfinished / "data", split) for split, rows in rows_by_split.items()}
        counts = {split: count for split, count in counts.items() if count}
        if not counts:
            raise InputError(f"no structures to write to {folder}")
    return counts


def _write_split(rows: Iterable[dict[str, Any]], folder: Path, split: str) -> int:
    schema = STRUCTURE_FEATURES.arrow_schema  # carries the Features in its metadata
    path = folder / f"{split}-00000-of-00001.parquet"
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for group in _groups(rows):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            count += len(group)
    if not count:
        path.unlink()  # an empty split is no split
    return count


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Row groups with arrays as nested lists, which is what Arrow takes for more than one dimension."""
    iterator = iter(rows)
    while group := list(islice(iterator, ROWS_PER_GROUP)):
        yield [{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()} for row in group]
