"""
The pairs of a batch: who is near whom, and by which lattice vectors, in time and memory that grow with the atoms; and
the waves of its lattices.

Atoms and those of their periodic images that the cutoff can reach are sorted into bins as wide as the cutoff, so that
only the 27 bins around an atom have to be looked at. All structures of a batch are searched at once: crystals, slabs
and molecules, and cells that are thinner than the cutoff.

This file travels inside checkpoints and imports numpy only.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SAME_PLACE = 1e-3  # Å; atoms at one place do not meet: the direction from one to the other is undefined
_MOST_BINS = 10**5  # along one axis: two atoms light years apart must not overflow the number of a bin


class Neighbours(NamedTuple):
    """
    What [`find_neighbours`] found, with as many slots S as the atom with the most neighbours has.

    Args:
        others (`np.ndarray` of shape `(B, N, S)`): The other atom, by its place in the structure; -1 in empty slots.
        shifts (`np.ndarray` of shape `(B, N, S, 3)`): By how many lattice vectors that atom is shifted.
    """

    others: np.ndarray
    shifts: np.ndarray


def wrap(positions: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """
    Positions inside the cell along its periodic directions.

    Args:
        positions (`np.ndarray` of shape `(B, N, 3)`): Å.
        cells (`np.ndarray` of shape `(B, 3, 3)`): Å; zero rows along directions that are not periodic.
    """
    return positions - np.floor(positions @ np.linalg.pinv(cells)) @ cells


def find_neighbours(positions: np.ndarray, cells: np.ndarray, is_atom: np.ndarray, cutoff: float) -> Neighbours:
    """
    All images of atoms within `cutoff` of each atom.

    Args:
        positions (`np.ndarray` of shape `(B, N, 3)`): Å; anything on padding.
        cells (`np.ndarray` of shape `(B, 3, 3)`): Å; zero rows along directions that are not periodic.
        is_atom (`np.ndarray` of shape `(B, N)`): False on padding.
        cutoff (`float`): Å.

    Returns:
        [`Neighbours`]: An atom is a neighbour of itself where its own image is near.
    """
    structure, place = np.nonzero(is_atom)
    own, cells = positions[structure, place].astype(np.float64), cells.astype(np.float64)
    inverses = np.linalg.pinv(cells)
    fractional = np.einsum("mi,mij->mj", own, inverses[structure])
    turns = np.where(np.any(cells, axis=2)[structure], np.floor(fractional), 0.0)  # the cell that each atom lies in
    own -= np.einsum("mi,mij->mj", turns, cells[structure])
    owners, shifts = _images(fractional - turns, structure, cells, cutoff * np.linalg.norm(inverses, axis=1))
    images = own[owners] + np.einsum("mi,mij->mj", shifts, cells[structure[owners]])
    pairs = list(_near_pairs(own, structure, images, structure[owners], cutoff))

    filled = np.zeros(len(own), dtype=np.int64)
    slots = []
    for first, _ in pairs:  # each piece is sorted by its first atom
        counts = np.bincount(first, minlength=len(own))
        slots.append((filled - (np.cumsum(counts) - counts))[first] + np.arange(len(first)))
        filled += counts
    shape = (*is_atom.shape, max(1, int(filled.max(initial=0))))
    others, shift = np.full(shape, -1, dtype=np.int64), np.zeros((*shape, 3), dtype=np.int32)
    rows = (structure * is_atom.shape[1] + place) * shape[2]
    turns, shifts = turns.astype(np.int32), shifts.astype(np.int32)
    for (first, second), slot in zip(pairs, slots, strict=True):
        target, other = rows[first] + slot, owners[second]
        others.reshape(-1)[target] = place[other]
        shift.reshape(-1, 3)[target] = shifts[second] + turns[first] - turns[other]
    return Neighbours(others, shift)


def _images(
    fractional: np.ndarray, structure: np.ndarray, cells: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    The atoms and all of their images that are near the cell.

    Args:
        fractional (`np.ndarray` of shape `(M, 3)`): Of the wrapped atoms.
        structure (`np.ndarray` of shape `(M,)`): Of each of them.
        reach (`np.ndarray` of shape `(B, 3)`):
            How far from the cell, in lattice vectors: the planes that bound a cell along lattice vector i are
            1 / |column i of its inverse| apart.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Whose image each is (I,), the atoms themselves first, and its shift
        (I, 3) in lattice vectors.
    """
    periodic: np.ndarray = np.any(cells, axis=2)
    owners, shifts = np.arange(len(fractional)), np.zeros((len(fractional), 3))
    for axis in range(3):  # one after the other, so that the images of images fill edges and corners
        pieces = [(owners, shifts)]
        along, far = fractional[owners, axis], reach[structure[owners], axis]
        far = np.where(periodic[structure[owners], axis], far + 1e-6, -1.0)  # rounded images at the edge count
        for shift in range(1, int(np.ceil(far.max(initial=0.0))) + 1):
            for signed in (shift, -shift):
                near = np.flatnonzero((along + signed >= -far) & (along + signed <= 1 + far))
                moved = shifts[near]
                moved[:, axis] = signed
                pieces.append((owners[near], moved))
        owners, shifts = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return owners, shifts


def _near_pairs(
    positions: np.ndarray, structure: np.ndarray, images: np.ndarray, image_structure: np.ndarray, cutoff: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    Pairs of an atom and an image of the same structure, nearer than `cutoff`, in nine pieces of two arrays (P,), each
    sorted by the atom: nine columns of three bins, which lie one behind the other, surround an atom.
    """
    if not len(positions):
        return
    low, high = images.min(axis=0), images.max(axis=0)
    width = np.maximum(cutoff * (1 + 1e-9), (high - low) / _MOST_BINS)
    counts = np.floor((high - low) / width).astype(np.int64) + 3  # a margin of one bin on both sides

    def bins(points: np.ndarray, of: np.ndarray) -> np.ndarray:
        x, y, z = (np.floor((points - low) / width).astype(np.int64) + 1).T
        return ((of * counts[0] + x) * counts[1] + y) * counts[2] + z

    image_bins = bins(images, image_structure)
    order = np.argsort(image_bins, kind="stable")
    image_bins, sorted_images = image_bins[order], images[order]
    own_bins, own = bins(positions, structure), np.arange(len(positions))
    for x in (-1, 0, 1):
        for y in (-1, 0, 1):
            centre = own_bins + (x * counts[1] + y) * counts[2]
            start = np.searchsorted(image_bins, centre - 1, side="left")
            length = np.searchsorted(image_bins, centre + 1, side="right") - start
            first = np.repeat(own, length)
            second = np.arange(len(first)) + (start - (np.cumsum(length) - length))[first]
            vectors = sorted_images.take(second, axis=0)
            vectors -= positions.take(first, axis=0)
            squares = np.einsum("pi,pi->p", vectors, vectors)
            near = np.flatnonzero((squares < cutoff**2) & (squares > SAME_PLACE**2))
            yield first[near], order[second[near]]


def find_wave_numbers(cells: np.ndarray, cutoff: float) -> np.ndarray:
    """
    The vectors of the reciprocal lattices that are shorter than `cutoff`, one of each G and -G, without 0.

    Args:
        cells (`np.ndarray` of shape `(B, 3, 3)`): Å; zero rows along directions that are not periodic.
        cutoff (`float`): In 1/Å, of |G| = 2π / wavelength.

    Returns:
        `np.ndarray` of shape `(B, K, 3)`: Waves per lattice vector, int32; zeros in empty slots.

    Raises:
        `ValueError`: A structure is not periodic in all three directions.
    """
    periodic = np.any(cells, axis=2).all(axis=1)
    if not periodic.all():
        raise ValueError(
            f"structure {int(np.argmin(periodic))} is not periodic in all three directions, which a model with "
            "long_range needs: give a slab or a molecule a periodic cell with the vacuum that it was trained with"
        )
    found = [_waves_of(cell.astype(np.float64), cutoff) for cell in cells]
    numbers = np.zeros((len(cells), max([1, *map(len, found)]), 3), dtype=np.int32)
    for row, waves in enumerate(found):
        numbers[row, : len(waves)] = waves
    return numbers


def _waves_of(cell: np.ndarray, cutoff: float) -> np.ndarray:
    """Those of one cell (3, 3): along lattice vector a no wave is shorter than the cutoff allows."""
    most = np.floor(cutoff * np.linalg.norm(cell, axis=1) / (2 * np.pi)).astype(int)
    grid = np.indices(2 * most + 1).reshape(3, -1).T - most
    half = grid[len(grid) // 2 + 1 :]  # behind 0, in whose middle it stands, come the opposites of those before
    vectors = 2 * np.pi * half @ np.linalg.inv(cell).T
    return half[np.einsum("ki,ki->k", vectors, vectors) < cutoff**2]


__all__ = ["Neighbours", "find_neighbours", "find_wave_numbers", "wrap"]
