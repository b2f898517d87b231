"""The last step of every new data set: its rows go to their splits, with a file of the splits and a card."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ...files import finished_folder
from ..load.reading import read_splits
from ..split.splitting import SPLIT_FILE, Division, RowKey, write_split_file
from .card import write_card
from .summary import DatasetSummary
from .writing import ROWS_PER_GROUP, write_shards

Divide = Callable[[Sequence[str], Sequence[RowKey]], Division]  # from the source and the key of every row





def write_divided(
    folder: Path,
    sources: Sequence[str],
    keys: Sequence[RowKey],
    divide: Divide,
    read: Callable[[np.ndarray], Iterable[pa.Table]],
    provenance: Mapping[str, Any],
    *,
    name: str,
    like: str | Path | None = None,
) -> tuple[dict[str, int], DatasetSummary]:
    """Writes the data, `splits.csv`, `README.md` and `figures/` into an empty folder.

    Args:
        sources, keys: of all rows.
        divide: such as [`divide_rows`].
        read: tables with the rows of given sorted numbers, in order.
        provenance, name, like: of [`write_card`].

    Returns:
        Number of rows by split, and what the data set holds.
    """
    splits, subsets = divide(sources, keys)
    counts = write_shards(folder, (splits, subsets), read)
    write_split_file(folder / SPLIT_FILE, sources, keys, splits, subsets)
    return counts, write_card(folder, provenance, name=name, like=like)


def resplit(
    dataset: str | Path,
    folder: str | Path,
    divide: Divide,
    how: str,
) -> DatasetSummary:
    """Writes the rows of all splits of a data set into new splits, with a card and a file of the splits.

    The rows stay on disk; memory is for the sources and keys of all rows and for the structures of a few.

    Args:
        dataset: folder or Hub id.
        folder: must not exist or be empty.
        divide: says where every row goes.
        how: what was done, for the provenance.
    """
    with finished_folder(folder) as unfinished:
        rows = datasets.concatenate_datasets(list(read_splits(dataset).values())).with_format("arrow")
        sources, keys = _keys(rows)
        read, name = partial(_tables, rows), Path(folder).name
        return write_divided(unfinished, sources, keys, divide, read, {"divided": how}, name=name, like=dataset)[1]


def _keys(rows: datasets.Dataset) -> tuple[list[str], list[RowKey]]:
    sources: list[str] = []
    keys: list[RowKey] = []
    names = ("source", "trajectory", "config_type")
    columns = rows.select_columns([*names, "forces"])
    for start in range(0, len(rows), ROWS_PER_GROUP):
        table = columns[start : start + ROWS_PER_GROUP]
        source, trajectory, kind = (table[name].fill_null("").to_pylist() for name in names)
        sources += source
        keys += map(RowKey, trajectory, kind, table["forces"].is_valid().to_pylist())
    return sources, keys


def _tables(rows: datasets.Dataset, numbers: np.ndarray) -> Iterator[pa.Table]:
    for start in range(0, len(numbers), ROWS_PER_GROUP):
        yield rows[numbers[start : start + ROWS_PER_GROUP]]
