"""Structures as plain arrays: into the cell, under the operations of the cube, and as `ase.Atoms`.

A structure is a mapping with `atomic_numbers` (N,), `positions` (N, 3) in Å, `cell` (3, 3) in Å and `pbc` (3,), as
rows of data sets, batches and the feature extractor have it.
"""

from collections.abc import Mapping
from itertools import permutations, product
from typing import Any

import numpy as np
from ase import Atoms

OCTAHEDRAL_OPERATIONS = np.array(
    [np.eye(3)[list(axes)] * signs for axes in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)]
)
"""(48, 3, 3) the operations of the point group Oh: every permutation of x, y, z with every choice of signs.

Like all operations here, they multiply row vectors from the right.
"""

CUBIC_TOLERANCE = 1e-5  # of the edge: what a file with five digits leaves of a cubic cell


def atoms_of(structure: Mapping[str, Any]) -> Atoms:
    """The structure as `ase.Atoms`, in float64; `info` has its charge, where it has one."""
    return Atoms(
        numbers=structure["atomic_numbers"],
        positions=np.asarray(structure["positions"], dtype=np.float64),
        cell=np.asarray(structure["cell"], dtype=np.float64),
        pbc=structure["pbc"],
        info={"charge": charge} if (charge := structure.get("charge")) else {},
    )


def is_cubic(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """For cells (..., 3, 3) and pbc (..., 3): whether each is a cube along x, y, z, periodic in all directions."""
    edge = cell[..., 0, 0]
    deviation = np.abs(cell - edge[..., None, None] * np.eye(3)).max(axis=(-1, -2))
    return (deviation <= CUBIC_TOLERANCE * edge) & (edge > 0) & pbc.all(axis=-1)


def wrapped(positions: np.ndarray, structure: dict[str, Any]) -> np.ndarray:
    """`positions` (N, 3) shifted by lattice vectors into the cell of `structure`, along its periodic directions."""
    cell, pbc = structure["cell"], structure["pbc"]
    edges = cell.diagonal()
    if pbc.all() and edges.all() and np.count_nonzero(cell) == 3:  # a box along x, y, z is three times as fast
        return positions - np.floor(positions / edges) * edges
    lattice = cell[pbc]
    if not len(lattice):
        return positions
    inverse = lattice.T @ np.linalg.inv(lattice @ lattice.T)
    return positions - np.floor(positions @ inverse) @ lattice


def symmetry_image(structure: dict[str, Any], operation: np.ndarray) -> dict[str, Any]:
    """
    `structure` with its positions (N, 3) times `operation` (3, 3). An operation of Oh maps a cubic cell onto itself,
    so there the positions are wrapped; any other cell, or operation, turns the cell along. Labels stay as they are.
    """
    positions = structure["positions"].astype(np.float64) @ operation
    if np.isin(operation, (-1, 0, 1)).all() and is_cubic(structure["cell"], structure["pbc"]):
        return structure | {"positions": wrapped(positions, structure)}
    return structure | {"positions": positions, "cell": structure["cell"] @ operation}
