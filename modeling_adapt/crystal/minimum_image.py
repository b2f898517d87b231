"""
Cells that can be periodic, in them the shortest of all periodic images of a vector, and by these how far atoms moved
between two structures.
"""

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from ..errors import InputError
from ..neighbours_adapt import cell_fault


def require_cell(cell: np.ndarray) -> None:
    """Raises [`InputError`] for a cell (3, 3) in Å, with zero rows where it is not periodic, that has no volume."""
    if (fault := cell_fault(cell)) is not None:
        raise InputError(fault)


def shortest_images(vectors: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The shortest periodic images of `vectors` (M, 3) in Å.

    Args:
        cell (`np.ndarray` of shape `(3, 3)`):
            Rows are cell vectors in Å; those of directions that are not periodic are not used.
        pbc (`np.ndarray` of shape `(3,)`): Periodic directions.
    """
    pbc = np.asarray(pbc, dtype=bool)
    lattice = np.asarray(cell, dtype=np.float64)[pbc]
    if not len(lattice):
        return vectors
    metric = lattice @ lattice.T
    lengths = metric.diagonal()
    if np.abs(metric - np.diag(lengths)).max() < 1e-8 * lengths.max():
        # Orthogonal cell vectors: rounding is exact, and many times faster than the general search.
        return vectors - np.rint(vectors @ (lattice.T / lengths)) @ lattice
    # ASE 3.29 errs by whole cell vectors if one that is not periodic leans; zero rows become perpendicular ones there.
    return find_mic(vectors, np.where(pbc[:, None], cell, 0.0), pbc)[0]


def displacements(start: Atoms, end: Atoms) -> np.ndarray:
    """
    Displacement of every atom, by the minimum image along periodic directions, so that an atom that was wrapped into
    the cell has not moved.

    Returns:
        `np.ndarray` of shape `(N, 3)`: In Å.

    Raises:
        [`InputError`]: The structures do not hold the same elements in the same order.
    """
    if not np.array_equal(start.numbers, end.numbers):
        raise InputError(
            f"cannot compare {start.get_chemical_formula()} with {end.get_chemical_formula()}: "
            "both structures must hold the same atoms in the same order"
        )
    return shortest_images(end.positions - start.positions, end.cell.array, end.pbc)


def largest_displacement(start: Atoms, end: Atoms) -> float:
    """Largest displacement of any atom in Å, by the minimum image."""
    return float(np.linalg.norm(displacements(start, end), axis=1).max())


def delta_q(start: Atoms, end: Atoms) -> float:
    """
    Mass-weighted displacement sqrt(sum_i m_i |dr_i|^2) in amu^1/2 Å, by the minimum image: the configuration
    coordinate of defect physics (Alkauskas, Yan and Van de Walle, Phys. Rev. B 90, 075202 (2014)).
    """
    squared = np.square(displacements(start, end)).sum(axis=1)
    return float(np.sqrt(start.get_masses() @ squared))
