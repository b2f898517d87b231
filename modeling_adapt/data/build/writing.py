"""Rows to a parquet data set that `datasets.load_dataset(folder)` reads, divided into splits, with its card."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import InputError
from ...files import finished_folder
from ..columns import open_rows, tables
from ..load.reading import read_splits
from ..split.splitting import SPLIT_FILE, Division, RowKey, write_split_file
from ..structures import STRUCTURE_FEATURES
from .dataset_card import write_card
from .summary import DatasetSummary

ROWS_PER_GROUP = 1000  # one parquet row group; about 6 MB of 217-atom structures, which is also the memory needed
ROWS_PER_SHARD = 20_000  # one file; enough files for many processes to stream from, few enough to copy
KEY_COLUMNS = ["source", "trajectory", "config_type", "forces", "charge"]
Divide = Callable[[Sequence[str], Sequence[RowKey]], Division]  # from the source and the key of every row


class RowWriter(pq.ParquetWriter):
    """One parquet file of rows with the columns of `STRUCTURE_FEATURES`."""

    def __init__(self, path: Path) -> None:
        # The schema carries the Features in its metadata.
        super().__init__(path, STRUCTURE_FEATURES.arrow_schema, write_page_checksum=True)

    def write_rows(self, rows: Iterable[dict[str, Any]]) -> int:
        """Writes rows of [`structure_row`]; returns how many."""
        count = 0
        for table in _tables(rows):
            self.write_table(table)
            count += len(table)
        return count

    def write_group(self, table: pa.Table) -> None:
        """Writes rows that are in Arrow's format already, with the columns in any order."""
        self.write_table(table.select(self.schema.names).cast(self.schema), row_group_size=ROWS_PER_GROUP)


def write_dataset(rows_by_split: Mapping[str, Iterable[dict[str, Any]]], folder: str | Path) -> dict[str, int]:
    """Writes `data/<split>-00000-of-00001.parquet` for every split that has rows.

    An error half-way, also one raised by an iterator of rows, leaves nothing behind.

    Args:
        rows_by_split (`Mapping[str, Iterable[dict[str, Any]]]`):
            Rows of [`structure_row`] by split name; lists or iterators.
        folder (`str` or `Path`): Must not exist or be empty.

    Returns:
        `dict[str, int]`: Number of rows written by split.

    Raises:
        [`InputError`]: The folder is not empty or there is no row at all.
    """
    with finished_folder(folder) as unfinished:
        (unfinished / "data").mkdir()
        counts = {}
        for split, rows in rows_by_split.items():
            path = shard_path(unfinished, split, 0, 1)
            with RowWriter(path) as writer:
                count = writer.write_rows(rows)
            if count:
                counts[split] = count
            else:
                path.unlink()  # an empty split is no split
        if not counts:
            raise InputError(f"no structures to write to {folder}")
    return counts


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
        sources (`Sequence[str]`): Of all rows.
        keys (`Sequence[RowKey]`): Likewise.
        divide (`Divide`): Such as [`divide_rows`].
        read (`Callable[[np.ndarray], Iterable[pa.Table]]`): Tables with the rows of given sorted numbers, in order.
        provenance, name, like: As for [`write_card`].

    Returns:
        `tuple[dict[str, int], DatasetSummary]`: Number of rows by split, and what the data set holds.
    """
    splits, subsets = divide(sources, keys)
    counts = write_shards(folder, (splits, subsets), read)
    write_split_file(folder / SPLIT_FILE, sources, keys, splits, subsets)
    return counts, write_card(folder, provenance, name=name, like=like, checked=True)


def resplit(dataset: str | Path, folder: str | Path, divide: Divide, how: str) -> DatasetSummary:
    """Writes the rows of all splits of a data set into new splits, with a card and a file of the splits.

    The rows stay on disk; memory is for the sources and keys of all rows and for the structures of a few.

    Args:
        dataset (`str` or `Path`): Folder or Hub id.
        folder (`str` or `Path`): Must not exist or be empty.
        divide (`Divide`): Says where every row goes.
        how (`str`): What was done, for the provenance.
    """
    with finished_folder(folder) as unfinished:
        rows = datasets.concatenate_datasets(list(read_splits(dataset).values())).with_format("arrow")
        sources, keys = sources_and_keys(table for _, table in tables(rows.select_columns(KEY_COLUMNS)))
        read, name = partial(_rows_with, rows), Path(folder).name
        return write_divided(unfinished, sources, keys, divide, read, {"divided": how}, name=name, like=dataset)[1]


def sources_and_keys(pieces: Iterable[pa.Table | pa.RecordBatch]) -> tuple[list[str], list[RowKey]]:
    """What decides the split of every row; of tables with the columns `KEY_COLUMNS`."""
    sources: list[str] = []
    keys: list[RowKey] = []
    for table in pieces:
        source, trajectory, kind = (table[name].fill_null("").to_pylist() for name in KEY_COLUMNS[:3])
        sources += source
        keys += map(RowKey, trajectory, kind, table["forces"].is_valid().to_pylist(), table["charge"].to_pylist())
    return sources, keys


def _rows_with(rows: datasets.Dataset, numbers: np.ndarray) -> Iterator[pa.Table]:
    for start in range(0, len(numbers), ROWS_PER_GROUP):
        yield rows[numbers[start : start + ROWS_PER_GROUP]]


def write_shards(folder: Path, division: Division, read: Callable[[np.ndarray], Iterable[pa.Table]]) -> dict[str, int]:
    """Writes the rows of each split to files of at most `ROWS_PER_SHARD` rows; memory is for a row group.

    Args:
        folder (`Path`): Gets `data/<split>-00000-of-0000n.parquet`.
        division (`Division`): Row numbers by split, and the smallest nested subset of each row.
        read (`Callable[[np.ndarray], Iterable[pa.Table]]`): Tables with the rows of given sorted numbers, in order.

    Returns:
        `dict[str, int]`: Number of rows written by split.
    """
    splits, subsets = division
    (folder / "data").mkdir()
    counts: dict[str, int] = {}
    for split, members in splits.items():
        wanted = np.sort(np.asarray(members, dtype=np.int64))
        shards = -(-len(wanted) // ROWS_PER_SHARD)
        for shard in range(shards):
            numbers = wanted[shard * ROWS_PER_SHARD : (shard + 1) * ROWS_PER_SHARD]
            with RowWriter(shard_path(folder, split, shard, shards)) as writer:
                for table in _row_groups(read(numbers)):
                    writer.write_group(_with_subsets(table, subsets[numbers[: len(table)]]))
                    counts[split] = counts.get(split, 0) + len(table)
                    numbers = numbers[len(table) :]
    return counts


def _with_subsets(table: pa.Table, subsets: np.ndarray) -> pa.Table:
    """The rows of a table with these values (rows,) of [`train_subsets`] in the column `subset`; NaN becomes null."""
    column = pa.array(subsets, pa.float32(), from_pandas=True)
    return table.set_column(table.column_names.index("subset"), table.schema.field("subset"), column)


def _row_groups(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least `ROWS_PER_GROUP`, but for the last."""
    gathered: list[pa.Table] = []
    for table in pieces:
        gathered.append(table)
        if sum(map(len, gathered)) >= ROWS_PER_GROUP:
            yield pa.concat_tables(gathered)
            gathered = []
    if gathered:
        yield pa.concat_tables(gathered)


def rows_of_files(sources: Sequence[Path], wanted: np.ndarray) -> Iterator[pa.Table]:
    """The rows with the sorted numbers `wanted`, counted over all files of [`RowWriter`]; only files that hold some of
    them are read."""
    start = 0
    for source in sources:
        file = open_rows(source)
        end = start + file.metadata.num_rows
        if ((wanted >= start) & (wanted < end)).any():
            for batch in file.iter_batches(ROWS_PER_GROUP):
                inside = wanted[(wanted >= start) & (wanted < start + len(batch))] - start
                yield pa.Table.from_batches([batch]).take(pa.array(inside))
                start += len(batch)
        start = end


def shard_path(folder: Path, split: str, shard: int, shards: int) -> Path:
    """Where `datasets` looks for a file of a split."""
    return folder / "data" / f"{split}-{shard:05d}-of-{shards:05d}.parquet"


def _tables(rows: Iterable[dict[str, Any]]) -> Iterator[pa.Table]:
    """Row groups in Arrow's format."""
    schema = STRUCTURE_FEATURES.arrow_schema  # carries the Features in its metadata
    iterator = iter(rows)
    while group := list(islice(iterator, ROWS_PER_GROUP)):
        columns = [_column([row[field.name] for row in group], field.type) for field in schema]
        yield pa.Table.from_arrays(columns, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column; the numbers of lists go there as one array, which is a hundred times faster than one by one."""
    if not pa.types.is_list(kind) or pa.types.is_string(kind.value_type):
        return pa.array([v.tolist() if isinstance(v, np.ndarray) else v for v in values], kind)
    missing = pa.array([value is None for value in values])
    ends = np.cumsum([0, *(0 if value is None else len(value) for value in values)])
    numbers = np.concatenate([np.ravel(value) for value in values if value is not None] or [np.zeros(0)])
    inner = kind.value_type
    if pa.types.is_fixed_size_list(inner):
        content = pa.FixedSizeListArray.from_arrays(pa.array(numbers, inner.value_type), type=inner)
    else:
        content = pa.array(numbers, inner)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), content, type=kind, mask=missing)
