"""The closest contact of each pair of elements in a structure, periodic images included."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.data import chemical_symbols
from matscipy.neighbours import neighbour_list

from .minimum_image import require_cell

CONTACT_CUTOFF = 4.0  # Å; pairs farther apart than this are no contacts
SAME_PLACE = 0.1  # Å; two atoms nearer than this are one atom that was written twice
_SHORTEST_SEARCH = 1.0  # Å; the cell is divided into boxes of that size, and most of smaller ones would be empty


class Contact(NamedTuple):
    """Two atoms (the same one where it meets its own periodic image) and their distance in Å."""

    first: int
    second: int
    distance: float


def closest_contacts(atoms: Atoms, cutoff: float = CONTACT_CUTOFF) -> dict[str, Contact]:
    """The closest contact of each pair of elements, by the pair's name in alphabetical order ("C-Si")."""
    first, second, distances = contacts(atoms, cutoff)
    by_distance = np.argsort(distances, kind="stable")
    first, second, distances = first[by_distance], second[by_distance], distances[by_distance]
    low, high = np.sort(atoms.numbers[[first, second]], axis=0)
    _, closest = np.unique(low * len(chemical_symbols) + high, return_index=True)
    return {
        "-".join(sorted(atoms.symbols[[first[index], second[index]]])): Contact(
            int(first[index]), int(second[index]), float(distances[index])
        )
        for index in closest
    }


def coinciding_atoms(atoms: Atoms) -> tuple[int, int] | None:
    """The first two atoms at the same place, periodic images included; None where there are none."""
    first, second, _ = contacts(atoms, SAME_PLACE)
    return min(zip(first.tolist(), second.tolist(), strict=True), default=None)


def contacts(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    All pairs of atoms nearer to each other than `cutoff` Å, in a cell of any shape, however small; each at least once.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: Three arrays (pairs,): both atom indices, and the distance in Å.
    """
    pbc = atoms.pbc & atoms.cell.any(axis=1)
    lattice = np.where(pbc[:, None], atoms.cell.array, 0.0)
    require_cell(lattice)
    cell = Cell(lattice).complete()
    fractional = cell.scaled_positions(atoms.positions)
    fractional[:, pbc] %= 1.0  # the search counts its way into the cell
    first, second, distances = neighbour_list(
        "ijd", positions=fractional @ cell.array, cell=cell.array, pbc=pbc, cutoff=max(cutoff, _SHORTEST_SEARCH)
    )
    once = (first <= second) & (distances < cutoff)
    return first[once].astype(np.intp), second[once].astype(np.intp), distances[once]
