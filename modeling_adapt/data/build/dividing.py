"""The last step of every new data set: its rows go to their splits, with a file of the splits and a card."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .card import write_card
from ..split.grouping import RowKey
from ..split.split_files import SPLIT_FILE, write_split_file
from ..split.subsets import Division
from .summary import DatasetSummary
from .writing import write_shards

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
