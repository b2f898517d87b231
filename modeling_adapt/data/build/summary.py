"""What a data set holds: counts and ranges, taken in one pass, and as a small table for the terminal."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ...elements_adapt import SYMBOLS
from ...tables import format_table
from ..columns import flat_values

_HEADER = ("file", "split", "structures", "trajectories", "energies", "atoms", "elements", "mean |F|")
_FILES = 20  # more files than this are counted together


@dataclass
class Tally:
    """Counts and ranges of some structures; forces in eV/Å, energies in eV."""

    structures: int = 0
    trajectories: set[str] = field(default_factory=set)
    with_forces: int = 0
    with_energy: int = 0
    atoms: list[int] = field(default_factory=list)  # smallest and largest number of them, once there are structures
    element_atoms: np.ndarray = field(default_factory=lambda: np.zeros(len(SYMBOLS), dtype=np.int64))
    element_structures: np.ndarray = field(default_factory=lambda: np.zeros(len(SYMBOLS), dtype=np.int64))
    components: int = 0
    component_sum: float = 0.0  # of their sizes
    largest_force: float = 0.0  # length of a vector
    energies: list[float] = field(default_factory=list)  # smallest and largest
    energies_per_atom: list[float] = field(default_factory=list)  # likewise

    def __iadd__(self, other: "Tally") -> "Tally":
        self.trajectories |= other.trajectories
        for name in (
            *("structures", "with_forces", "with_energy", "element_atoms", "element_structures"),
            *("components", "component_sum"),
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest_force = max(self.largest_force, other.largest_force)
        for name in ("atoms", "energies", "energies_per_atom"):
            setattr(self, name, _range(getattr(self, name) + getattr(other, name)))
        return self

    @property
    def symbols(self) -> list[str]:
        """Of the elements, by atomic number."""
        return [SYMBOLS[number] for number in np.flatnonzero(self.element_atoms)]

    @property
    def mean_force(self) -> float | None:
        """Mean size of a force component in eV/Å: the MAE of predicting zero forces. None without forces."""
        return self.component_sum / self.components if self.components else None


def _range(values: Sequence[Any]) -> list[Any]:
    return [min(values), max(values)] if len(values) else []


@dataclass
class RowNumbers:
    """What is counted of B rows: arrays (B,), and (B, elements) of the atoms; NaN where there is no label."""

    trajectories: np.ndarray
    atoms: np.ndarray
    elements: np.ndarray
    component_sums: np.ndarray
    largest_forces: np.ndarray
    energies: np.ndarray


def row_numbers(table: pa.Table) -> RowNumbers:
    """Measures the rows of a table with the columns of `STRUCTURE_FEATURES`."""
    atoms = table["atomic_numbers"].combine_chunks().value_lengths().to_numpy()
    owners = np.repeat(np.arange(len(table)), atoms)
    codes = owners * len(SYMBOLS) + flat_values(table, "atomic_numbers")
    has_forces = table["forces"].is_valid().to_numpy()
    forces = flat_values(table, "forces").reshape(-1, 3)
    component_sums, largest = np.full(len(table), np.nan), np.full(len(table), np.nan)
    if len(forces):
        starts = np.append(0, np.cumsum(atoms[has_forces])[:-1])
        component_sums[has_forces] = np.add.reduceat(np.abs(forces).sum(axis=1, dtype=np.float64), starts)
        largest[has_forces] = np.maximum.reduceat(np.linalg.norm(forces, axis=1), starts)
    return RowNumbers(
        trajectories=table["trajectory"].to_numpy(),
        atoms=atoms,
        elements=np.bincount(codes, minlength=len(table) * len(SYMBOLS)).reshape(len(table), -1),
        component_sums=component_sums,
        largest_forces=largest,
        energies=table["energy"].to_numpy(),
    )


def tally_of(rows: RowNumbers, members: np.ndarray) -> Tally:
    """Counts the rows with the numbers `members`."""
    atoms, elements, energies = rows.atoms[members], rows.elements[members], rows.energies[members]
    labelled = members[~np.isnan(rows.component_sums[members])]
    known = ~np.isnan(energies)
    return Tally(
        structures=len(members),
        trajectories=set(rows.trajectories[members]),
        with_forces=len(labelled),
        with_energy=int(known.sum()),
        atoms=_range(atoms.tolist()),
        element_atoms=elements.sum(axis=0),
        element_structures=(elements > 0).sum(axis=0),
        components=3 * int(rows.atoms[labelled].sum()),
        component_sum=float(rows.component_sums[labelled].sum()),
        largest_force=float(rows.largest_forces[labelled].max(initial=0.0)),
        energies=_range(energies[known].tolist()),
        energies_per_atom=_range((energies / atoms)[known].tolist()),
    )


@dataclass
class DatasetSummary:
    """Tallies by (file, split, config type), and what is counted by split or by row alone."""

    tallies: dict[tuple[str, str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    files: set[str] = field(default_factory=set)
    defect_kinds: Counter[str] = field(default_factory=Counter)
    subsets: Counter[float] = field(default_factory=Counter)  # structures by the smallest subset, in percent
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)  # structures by name of the source, and split
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
        if "source_name" in table.column_names:
            self.sources.update((name, split) for name in table["source_name"].to_pylist() if name)
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
        " ".join(tally.symbols),
        "-" if tally.mean_force is None else f"{1000 * tally.mean_force:.1f}",
    )
