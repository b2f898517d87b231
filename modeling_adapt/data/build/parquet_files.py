"""The parquet files of a data set on disk, read in order and in pieces, without a copy in the cache of `datasets`."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset_builder

from ...errors import InputError, one_line
from ..columns import ROWS_PER_READ
from ..structures import LATER_COLUMNS, STRUCTURE_FEATURES
from ..validation import require_valid_table


def parquet_splits(folder: str | Path) -> dict[str, list[Path]]:
    """The files of every split, as `datasets.load_dataset` finds them.

    Raises:
        InputError: if the folder holds no data set of structures.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a data set")
    if not any(folder.rglob("*.parquet")):
        raise InputError(f"{folder} holds no parquet files; build a data set with a command in data_scripts/")
    try:
        found = load_dataset_builder(str(folder)).config.data_files
        splits = {str(split): [Path(path) for path in paths] for split, paths in found.items()}
        for path in sum(splits.values(), []):
            _require_columns(path)
    except InputError:
        raise
    except Exception as error:  # a README with broken metadata, a damaged file: datasets and Arrow raise many types
        raise InputError(f"{folder} cannot be read as a data set: {one_line(error)}") from error
    return splits


def _require_columns(path: Path) -> None:
    present = pq.read_schema(path).names
    missing = [name for name in STRUCTURE_FEATURES if name not in present and name not in LATER_COLUMNS]
    if missing:
        raise InputError(f"{path} holds no structures: it lacks the columns {', '.join(missing)}")


def parquet_tables(paths: list[Path]) -> Iterator[pa.Table]:
    """The rows in pieces of at most `ROWS_PER_READ`.

    Raises:
        InputError: if a file is damaged, or a row is no valid structure.
    """
    for path in paths:
        first = 0
        try:
            for batch in pq.ParquetFile(path).iter_batches(ROWS_PER_READ):
                table = pa.Table.from_batches([batch])
                require_valid_table(table, str(path), first)
                yield table
                first += len(table)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} is damaged: {one_line(error)}") from error
