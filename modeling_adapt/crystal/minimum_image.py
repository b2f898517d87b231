"""Cells that can be periodic, and in them the shortest of all periodic images of a vector."""

import numpy as np
from ase.geometry import find_mic

from ..errors import InputError
from ..feature_extraction_adapt import cell_fault


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
