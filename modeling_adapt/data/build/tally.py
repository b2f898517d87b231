"""Counts and ranges of structures and their labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ...elements_adapt import SYMBOLS
from ..columns import flat_values


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
