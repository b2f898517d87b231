"""An existing data set, divided anew."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from ...files import finished_folder
from ..build.dividing import Divide, write_divided
from ..build.summary import DatasetSummary
from ..build.writing import ROWS_PER_GROUP
from ..load.reading import read_splits
from .grouping import RowKey


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
