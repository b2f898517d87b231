"""What a data set holds, counted in one pass, and as a small table for the terminal."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...elements_adapt import SYMBOLS
from ...tables import format_table
from ..columns import flat_values
from .parquet_files import parquet_splits, parquet_tables
from .tally import Tally, row_numbers, tally_of

_HEADER = ("file", "split", "structures", "trajectories", "energies", "atoms", "elements", "mean |F|")
_FILES = 20  # more files than this are counted together


@dataclass
class DatasetSummary:
    """Tallies by (file, split, config type), and what is counted by split or by row alone."""

    tallies: dict[tuple[str, str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    files: set[str] = field(default_factory=set)
    defect_kinds: Counter[str] = field(default_factory=Counter)
    subsets: Counter[float] = field(default_factory=Counter)  # structures by the smallest subset, in percent
    bytes_by_split: Counter[str] = field(default_factory=Counter)  # in Arrow's memory

    def add(self, split: str, table: pa.Table) -> None:
        """Counts the rows of a table with the columns of `STRUCTURE_FEATURES`."""
        rows = row_numbers(table)
        labels: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        kinds = table["config_type"].to_pylist()
        for row, (source, kind) in enumerate(zip(table["source"].to_pylist(), kinds, strict=True)):
            labels[self._file((source or "").rsplit("#", 1)[0]), split, kind or ""].append(row)
        for label, members in labels.items():
            self.tallies[label] += tally_of(rows, np.array(members))
        for name, counter in (("defect_kinds", self.defect_kinds), ("subset", self.subsets)):
            if name in table.column_names:  # data sets of earlier versions lack them
                values = flat_values(table, name)
                counter.update(values[values == values].tolist())  # without NaN, which null becomes
        self.bytes_by_split[split] += table.nbytes

    def _file(self, name: str) -> str:
        if len(self.files) < _FILES:
            self.files.add(name)
        return name if name in self.files else "other files"

    def by(self, *names: str) -> dict[Any, Tally]:
        """Tallies by one or several of `file`, `split` and `config_type`."""
        merged: dict[Any, Tally] = defaultdict(Tally)
        for label, tally in self.tallies.items():
            parts = dict(zip(("file", "split", "config_type"), label, strict=True))
            merged[tuple(parts[name] for name in names) if len(names) > 1 else parts[names[0]]] += tally
        return dict(merged)

    @property
    def total(self) -> Tally:
        """All structures."""
        total = Tally()
        for tally in self.tallies.values():
            total += tally
        return total


def summarise(folder: str | Path) -> DatasetSummary:
    """Counts what the data set in `folder` holds, in one pass with bounded memory; see [`parquet_splits`]."""
    summary = DatasetSummary()
    for split, paths in parquet_splits(folder).items():
        for table in parquet_tables(paths):
            summary.add(split, table)
    return summary


def summary_table(summary: DatasetSummary) -> str:
    """One line per file and split, then the config types."""
    counts = {kind: tally.structures for kind, tally in summary.by("config_type").items()}
    by_count = sorted(counts.items(), key=lambda item: -item[1])
    return "\n".join(
        [
            format_table(_HEADER, [(*label, *_cells(tally)) for label, tally in summary.by("file", "split").items()]),
            "config types: " + ", ".join(f"{kind or 'none given'} {count}" for kind, count in by_count),
            "mean |F|: of force components in meV/Å; the error of predicting zero forces",
        ]
    )


def _cells(tally: Tally) -> tuple[str, ...]:
    return (
        str(tally.structures),
        str(len(tally.trajectories)),
        str(tally.with_energy),
        "-".join(map(str, sorted(set(tally.atoms)))),
        " ".join(SYMBOLS[number] for number in np.flatnonzero(tally.element_atoms)),
        "-" if tally.mean_force is None else f"{1000 * tally.mean_force:.1f}",
    )
