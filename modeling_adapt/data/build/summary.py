"""What a data set holds: counts and ranges, taken in one pass, and as a small table for the terminal."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ...elements_adapt import SYMBOLS
from ...tables import format_table
from ..columns import flat_values, list_lengths
from ..load.survey import element_counts

_HEADER = ("file", "split", "structures", "trajectories", "energies", "atoms", "elements", "mean |F|")
_FILES = 20  # more files than this are counted together
_LABELS = ["file", "split", "config_type"]
# What is counted of structures, and how the counts of some and of others are those of all.
_TALLY = {
    **dict.fromkeys(("structures", "with_forces", "with_energy", "components", "component_sum"), "sum"),
    **dict.fromkeys(("fewest_atoms", "lowest_energy", "lowest_energy_per_atom"), "min"),
    **dict.fromkeys(("most_atoms", "highest_energy", "highest_energy_per_atom", "largest_force"), "max"),
}


class DatasetSummary:
    """
    Attributes:
        defect_kinds (`Counter`): Sites of each kind.
        subsets (`Counter`): Structures by the smallest subset that they are in, in percent.
        bytes_by_split (`Counter`): In Arrow's memory.
    """

    def __init__(self) -> None:
        self.defect_kinds: Counter[str] = Counter()
        self.subsets: Counter[float] = Counter()
        self.sources: Counter[tuple[str, str]] = Counter()
        self.bytes_by_split: Counter[str] = Counter()
        self._files: set[str] = set()
        # One of each for every table that was added, with a line for each of its labels.
        self._tallies: list[pd.DataFrame] = []
        self._trajectories: list[pd.DataFrame] = []
        self._elements: list[pd.DataFrame] = []
        self._charges: list[pd.DataFrame] = []

    def add(self, split: str, table: pa.Table) -> None:
        """Counts the rows of a table with the columns of `STRUCTURE_FEATURES`."""
        files = [self._file((source or "").rsplit("#", 1)[0]) for source in table["source"].to_pylist()]
        kinds = table["config_type"].fill_null("").to_pylist()
        rows = _measured(table).assign(file=files, split=split, config_type=kinds)
        self._tallies.append(rows.groupby(_LABELS, sort=False).agg(_TALLY))
        self._trajectories.append(rows[[*_LABELS, "trajectory"]].drop_duplicates())
        if "charge" in table.column_names:
            self._charges.append(rows[_LABELS].assign(charge=table["charge"].to_numpy()).drop_duplicates())
        counts = element_counts(flat_values(table, "atomic_numbers"), list_lengths(table, "atomic_numbers"))
        row, number = counts.nonzero()
        elements = rows[_LABELS].iloc[row].assign(number=number, atoms=counts[row, number], structures=1)
        self._elements.append(elements.groupby([*_LABELS, "number"]).sum().reset_index())
        for name, counter in (("defect_kinds", self.defect_kinds), ("subset", self.subsets)):
            if name in table.column_names:  # data sets of earlier versions lack them
                values = flat_values(table, name)
                counter.update(values[values == values].tolist())  # without NaN, which null becomes
        if "source_name" in table.column_names:
            self.sources.update((name, split) for name in table["source_name"].to_pylist() if name)
        self.bytes_by_split[split] += table.nbytes

    def _file(self, name: str) -> str:
        if len(self._files) < _FILES:
            self._files.add(name)
        return name if name in self._files else "other files"

    def by(self, *names: str) -> dict[Any, Any]:
        """
        What is counted by none, one or several of `file`, `split` and `config_type`: all of `_TALLY`, the number of
        `trajectories`, the `symbols` of the elements, the `charges` that are known, and the `mean_force`: the mean
        size of a force component in eV/Å, which is the MAE of predicting zero forces; NaN without forces. Forces are
        in eV/Å, energies in eV, NaN where there are none.
        """
        tallies = _grouped(self._tallies, names).agg(_TALLY)
        tallies["mean_force"] = tallies["component_sum"] / tallies["components"]
        tallies["trajectories"] = _grouped(self._trajectories, names)["trajectory"].nunique(dropna=False)
        tallies["symbols"] = _grouped(self._elements, names)["number"].apply(_symbols)
        charges = _grouped(self._charges, names)["charge"].apply(_known) if self._charges else None
        tallies["charges"] = [[]] * len(tallies) if charges is None else charges.reindex(tallies.index)
        return dict(zip(tallies.index, tallies.itertuples(index=False), strict=True))

    @property
    def total(self) -> Any:
        """Of all structures."""
        (total,) = self.by().values()
        return total

    @property
    def elements(self) -> list[tuple[str, int, int]]:
        """Symbol of each element, and how many atoms and structures there are of it."""
        counts = pd.concat(self._elements).groupby("number")[["atoms", "structures"]].sum()
        return [(SYMBOLS[number], atoms, structures) for number, atoms, structures in counts.itertuples()]


def _measured(table: pa.Table) -> pd.DataFrame:
    """The tally of each row, and its trajectory."""
    atoms, energies = list_lengths(table, "atomic_numbers"), table["energy"].to_numpy()
    has_forces = table["forces"].is_valid().to_numpy()
    forces = flat_values(table, "forces").reshape(-1, 3)
    component_sums, largest = np.zeros(len(table)), np.zeros(len(table))
    if len(forces):
        starts = np.append(0, np.cumsum(atoms[has_forces])[:-1])
        component_sums[has_forces] = np.add.reduceat(np.abs(forces).sum(axis=1, dtype=np.float64), starts)
        largest[has_forces] = np.maximum.reduceat(np.linalg.norm(forces, axis=1), starts)
    return pd.DataFrame(
        {
            "trajectory": table["trajectory"].to_numpy(),
            "structures": 1,
            "with_forces": has_forces,
            "with_energy": ~np.isnan(energies),
            "components": 3 * atoms * has_forces,
            "component_sum": component_sums,
            "largest_force": largest,
            **dict.fromkeys(("fewest_atoms", "most_atoms"), atoms),
            **dict.fromkeys(("lowest_energy", "highest_energy"), energies),
            **dict.fromkeys(("lowest_energy_per_atom", "highest_energy_per_atom"), energies / atoms),
        }
    )


def _grouped(pieces: list[pd.DataFrame], names: tuple[str, ...]) -> Any:
    return pd.concat(pieces).groupby(list(names) if names else lambda label: "all", sort=False)


def _symbols(numbers: pd.Series) -> list[str]:
    return [SYMBOLS[number] for number in np.unique(numbers)]


def _known(charges: pd.Series) -> list[float]:
    return sorted(set(charges.dropna()))


def summary_table(summary: DatasetSummary) -> str:
    """One line per file and split, then the config types."""
    counts = {kind: tally.structures for kind, tally in summary.by("config_type").items()}
    by_count = sorted(counts.items(), key=lambda item: -item[1])
    tallies = summary.by("file", "split")
    charged = any(tally.charges for tally in tallies.values())
    rows = [
        (*label, *_cells(tally), *([" ".join(f"{one:+g}" for one in tally.charges) or "-"] if charged else []))
        for label, tally in tallies.items()
    ]
    return "\n".join(
        [
            format_table([*_HEADER, *(["charges"] if charged else [])], rows),
            "config types: " + ", ".join(f"{kind or 'none given'} {count}" for kind, count in by_count),
            "mean |F|: of force components in meV/Å; the error of predicting zero forces",
        ]
    )


def _cells(tally: Any) -> tuple[str, ...]:
    return (
        str(tally.structures),
        str(tally.trajectories),
        str(tally.with_energy),
        "-".join(map(str, sorted({tally.fewest_atoms, tally.most_atoms}))),
        " ".join(tally.symbols),
        f"{1000 * tally.mean_force:.1f}" if tally.with_forces else "-",
    )
