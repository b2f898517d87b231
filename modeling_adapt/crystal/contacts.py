"""The closest contact of each pair of elements in a structure, periodic images included."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.data import chemical_symbols
from scipy.spatial import cKDTree

from .minimum_image import require_cell

CONTACT_CUTOFF = 4.0  # Å; pairs farther apart than this are no contacts
_MANY = 1_000
SAME_PLACE = 0.1  # Å; two atoms nearer than this are one atom that was written twice


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
    if len(atoms) > _MANY and (pair := _crowded(atoms.positions)) is not None:
        return pair
    first, second, _ = contacts(atoms, SAME_PLACE)
    return min(zip(first.tolist(), second.tolist(), strict=True), default=None)


def _crowded(positions: np.ndarray) -> tuple[int, int] | None:
    """Two of many atoms at one place, of which all pairs would be more than memory holds; None where they are few."""
    boxes = np.floor(positions / (SAME_PLACE / 2))  # whose diagonal is shorter than `SAME_PLACE`
    _, box, counts = np.unique(boxes, axis=0, return_inverse=True, return_counts=True)
    if counts.max() <= _MANY:
        return None
    first, second = np.flatnonzero(box.ravel() == counts.argmax())[:2].tolist()
    return first, second


def contacts(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    All pairs of atoms nearer to each other than `cutoff` Å, in a cell of any shape, however small; each at least once.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: Three arrays (pairs,): both atom indices, and the distance in Å.
    """
    edges = atoms.cell.array.diagonal()
    if atoms.pbc.all() and np.array_equal(np.diag(edges), atoms.cell.array) and edges.min() > 2 * cutoff:
        return _contacts_in_box(atoms.positions, edges, cutoff)
    images, owners = _with_images(atoms, cutoff)
    inside = cKDTree(images[: len(atoms)])
    pairs = inside.sparse_distance_matrix(cKDTree(images), cutoff, output_type="ndarray")
    # Among the atoms of the cell itself each pair is listed twice, and each atom with itself.
    once = pairs["i"] < pairs["j"]
    return pairs["i"][once], owners[pairs["j"][once]], pairs["v"][once]


def _contacts_in_box(
    positions: np.ndarray, edges: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[`contacts`] in a periodic box of which no pair sees two images: without any image, several times faster."""
    inside = positions % edges
    inside[inside >= edges] = 0.0  # what -1e-17 % 1 becomes
    first, second = cKDTree(inside, boxsize=edges).query_pairs(cutoff, output_type="ndarray").T
    vectors = inside[second] - inside[first]
    vectors -= edges * np.rint(vectors / edges)
    return first, second, np.sqrt((vectors**2).sum(axis=1))


def _with_images(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the atoms, wrapped into the cell, then of their images within `cutoff`, and whose they are."""
    own = np.arange(len(atoms))
    pbc = atoms.pbc & atoms.cell.any(axis=1)
    if not pbc.any():
        return atoms.positions, own
    lattice = np.where(pbc[:, None], atoms.cell.array, 0.0)
    require_cell(lattice)
    cell = Cell(lattice).complete()
    fractional = cell.scaled_positions(atoms.positions)
    fractional[:, pbc] %= 1.0
    # The planes that bound the cell along lattice vector i are 1 / |reciprocal vector i| apart.
    reach = np.where(pbc, cutoff * np.linalg.norm(cell.reciprocal(), axis=1), 0.0)

    images = fractional
    for axis in np.flatnonzero(pbc):  # one after the other, so that the images of images fill edges and corners
        count = int(np.ceil(reach[axis]))
        pieces = [images]
        owners = [own]
        for shift in (*range(-count, 0), *range(1, count + 1)):
            along = images[:, axis] + shift
            near = (along >= -reach[axis]) & (along <= 1 + reach[axis])
            piece = images[near]
            piece[:, axis] = along[near]
            pieces.append(piece)
            owners.append(own[near])
        images, own = np.concatenate(pieces), np.concatenate(owners)
    return images @ cell.array, own
