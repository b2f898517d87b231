"""How far atoms moved between two structures of the same atoms."""

import numpy as np
from ase import Atoms

from ..errors import InputError
from .minimum_image import shortest_images


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
