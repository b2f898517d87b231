"""
The pairs of a batch: who is near whom, and by which lattice vectors, in time and memory that grow with the atoms; and
the waves of its lattices.

Atoms and those of their periodic images that the cutoff can reach are divided until a part is so small that all of its
distances can be taken by one product of matrices. Crystals, slabs and molecules go through one search, and cells that
are thinner than the cutoff.

What moves little by little need not be searched at every step: a [`NeighbourList`] remembers who may come near.

This file travels inside checkpoints and imports numpy only.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SAME_PLACE = 1e-3  # Å; atoms at one place do not meet: the direction from one to the other is undefined
THINNEST_CELL = 0.2  # Å; no crystal is thinner, and a model would meet thousands of images of every atom
SKIN = 0.7  # Å; a wider list costs little more to measure, and serves longer
_NO_SKIN = 1e-6  # Å; just beyond rounding
_ROUNDING = 1e-8  # Å or Å^2; more than what rounding changes
_MOST_AT_ONCE = 2**18  # distances: a megabyte of float32, as much as stays in the cache of a processor
_LONGEST = 200.0  # Å, of what is measured at once: float32 must tell near pairs from others


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
    return positions - turns_of(positions, cells) @ cells


def turns_of(positions: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """How many lattice vectors [`wrap`] subtracts, (B, N, 3); arguments as there."""
    return np.floor(positions @ np.linalg.pinv(cells))


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
    return _listed(*_search(positions, cells, is_atom, cutoff, SAME_PLACE), is_atom.shape)


def _search(
    positions: np.ndarray, cells: np.ndarray, is_atom: np.ndarray, cutoff: float, closest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    All pairs farther apart than `closest` and nearer than `cutoff`: the first atom by its row among B N (P,), the
    other by its place (P,), and its shift (P, 3). They are sorted by these three, an order that depends neither on
    what else is in the batch nor on the cell in which an atom is written.
    """
    structure, place = np.nonzero(is_atom)
    own, cells = positions[structure, place].astype(np.float64), cells.astype(np.float64)
    inverses = np.linalg.pinv(cells)
    fractional = np.einsum("mi,mij->mj", own, inverses[structure])
    turns = np.where(np.any(cells, axis=2)[structure], np.floor(fractional), 0.0)  # the cell that each atom lies in
    own -= np.einsum("mi,mij->mj", turns, cells[structure])
    owners, shifts = _images(fractional - turns, structure, cells, cutoff * np.linalg.norm(inverses, axis=1))
    images = own[owners] + np.einsum("mi,mij->mj", shifts, cells[structure[owners]])
    # Images by whose they are, then by shift; the place in this order, behind the first atom, is what pairs sort by.
    farthest = np.abs(shifts).max(axis=0, initial=0.0).astype(np.int64)
    code = owners
    for axis in np.flatnonzero(farthest):
        code = code * (2 * farthest[axis] + 1) + shifts[:, axis].astype(np.int64)
    order = np.argsort(code, kind="stable")
    owners, images = owners[order], images[order]
    pairs = _near_pairs(own, structure, images, structure[owners], closest, cutoff)
    keys = np.concatenate([first * len(owners) + second for first, second in pairs] or [np.empty(0, dtype=np.int64)])
    keys.sort(kind="stable")  # most are in order, as the parts are
    first, second = np.divmod(keys, max(1, len(owners)))
    other, turns = owners[second], turns.astype(np.int32)
    shift = shifts[order].astype(np.int32).take(second, axis=0)
    if turns.any():
        shift += turns.take(first, axis=0) - turns.take(other, axis=0)
    return structure[first] * is_atom.shape[1] + place[first], place[other], shift


def _listed(row: np.ndarray, other: np.ndarray, shift: np.ndarray, shape: tuple[int, ...]) -> Neighbours:
    """Pairs, sorted by the row of their first atom, in slots."""
    counts = np.bincount(row, minlength=int(np.prod(shape)))
    slots = max(1, int(counts.max(initial=0)))
    target = np.arange(len(row)) + (slots * np.arange(len(counts)) - (np.cumsum(counts) - counts))[row]
    others = np.full((*shape, slots), -1, dtype=np.int64)
    shifts = np.zeros((*shape, slots, 3), dtype=np.int32)
    others.reshape(-1)[target] = other
    shifts.reshape(-1, 3)[target] = shift
    return Neighbours(others, shifts)


class NeighbourList:
    """
    The neighbours of one structure that moves, exactly those that [`find_neighbours`] finds, in the same order.

    Pairs within `cutoff + skin` are searched, and serve until an atom has moved by more than half of `skin`, or the
    cell has changed: until then no other pair can have come within `cutoff`. Which of them are within it is measured
    at every step. While the cell changes there is no skin, as what is found would not serve for another step.

    Args:
        cutoff (`float`): Å.
        skin (`float`, defaults to `SKIN`): Å.
    """

    def __init__(self, cutoff: float, skin: float = SKIN) -> None:
        self.cutoff, self.skin = cutoff, skin
        self._reach = skin  # of the last search beyond the cutoff
        self.searches = 0
        self._positions, self._cell = np.empty((0, 3)), np.zeros((3, 3))

    def covers(self, positions: np.ndarray, cell: np.ndarray) -> bool:
        """Whether the pairs that are known serve for a structure; shapes and units as for `__call__`."""
        if positions.shape != self._positions.shape or not np.array_equal(cell, self._cell):
            return False
        moved = positions - self._positions
        return bool(np.einsum("ni,ni->n", moved, moved).max(initial=0.0) < (self._reach / 2 - _ROUNDING) ** 2)

    def __call__(self, positions: np.ndarray, cell: np.ndarray, turns: np.ndarray | None = None) -> Neighbours:
        """
        Args:
            positions (`np.ndarray` of shape `(N, 3)`):
                Å, of which those that were not wrapped at every step serve best: an atom that jumps to the other side
                of the cell has moved far.
            cell (`np.ndarray` of shape `(3, 3)`): Å; zero rows along directions that are not periodic.
            turns (`np.ndarray` of shape `(N, 3)`, *optional*):
                Lattice vectors that are subtracted from `positions` before the shifts are used; see [`turns_of`].

        Returns:
            [`Neighbours`]: As those of one structure of a batch: `others` (N, S) and `shifts` (N, S, 3).
        """
        positions, cell = positions.astype(np.float64), cell.astype(np.float64)
        _, _, squares = self.pairs(positions, cell)
        inside = squares < self.cutoff**2
        inside &= squares > SAME_PLACE**2
        # What rounding decides, a search decides as it does without a list.
        unclear = np.abs(squares - self.cutoff**2) < _ROUNDING
        if unclear.any() or not squares.min(initial=1.0) > SAME_PLACE**2 + _ROUNDING:
            there = positions if turns is None else positions - turns @ cell
            found = find_neighbours(there[None], cell[None], np.ones((1, len(there)), dtype=bool), self.cutoff)
            return Neighbours(found.others[0], found.shifts[0])
        near = np.flatnonzero(inside)
        first, second, shifts = self._first[near], self._second[near], self._shifts.take(near, axis=0)
        if turns is not None and turns.any():
            turns = turns.astype(np.int32)
            shifts += turns.take(second, axis=0) - turns.take(first, axis=0)
        return _listed(first, second, shifts, (len(positions),))

    def pairs(self, positions: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Both atoms (P,) and the squared distances (P,) in Å^2 of all pairs within `cutoff`, of atoms at one place too,
        and of some that are farther apart; arguments as for a call.
        """
        if not self.covers(positions, cell):
            self._search(positions, cell)
        vectors = positions.take(self._second, axis=0)
        vectors += self._offsets
        vectors -= positions.take(self._first, axis=0)
        return self._first, self._second, np.einsum("pi,pi->p", vectors, vectors)

    def _search(self, positions: np.ndarray, cell: np.ndarray) -> None:
        self.searches += 1
        strained = positions.shape == self._positions.shape and not np.array_equal(cell, self._cell)
        self._reach = _NO_SKIN if strained else self.skin
        self._positions, self._cell = positions.copy(), cell.copy()
        everyone = np.ones((1, len(positions)), dtype=bool)
        # Atoms at one place may part.
        first, second, shifts = _search(positions[None], cell[None], everyone, self.cutoff + self._reach, -1.0)
        pairs = np.flatnonzero((first != second) | shifts.any(axis=1))
        self._first, self._second, self._shifts = first[pairs], second[pairs], shifts[pairs]
        self._offsets = self._shifts @ cell


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
    positions: np.ndarray,
    structure: np.ndarray,
    images: np.ndarray,
    image_structure: np.ndarray,
    closest: float,
    cutoff: float,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    Pairs of an atom and an image of the same structure, farther apart than `closest` and nearer than `cutoff`, in
    pieces of two arrays (P,). Atoms and images are sorted by structure.

    Of few atoms and images all distances are taken, by one product of matrices; many, or far ones, are halved across
    their longest side, each half with the images that it can reach.
    """
    rows, reach = np.unique(structure), cutoff + _ROUNDING
    ends = [np.searchsorted(of, rows, side) for of in (structure, image_structure) for side in ("left", "right")]
    waiting = [(np.arange(*row[:2]), np.arange(*row[2:])) for row in zip(*ends, strict=True)]
    while waiting:
        first, second = waiting.pop()
        points, others = positions[first], images[second]
        low, high = points.min(axis=0), points.max(axis=0)
        axis = int(np.argmax(high - low))
        if len(first) > 1 and (len(first) * len(second) > _MOST_AT_ONCE or high[axis] - low[axis] > _LONGEST):
            order = np.argpartition(points[:, axis], len(first) // 2)
            for half in (order[: len(first) // 2], order[len(first) // 2 :]):
                box = points[half].min(axis=0) - reach, points[half].max(axis=0) + reach
                columns = zip(others.T, *box, strict=True)  # four times as fast as rows
                near = functools.reduce(np.logical_and, [(x >= least) & (x <= most) for x, least, most in columns])
                waiting.append((first[half], second[near]))
            continue
        one, other = np.divmod(_perhaps_near(points - low, others - low, cutoff), len(second))
        vectors = others.take(other, axis=0)
        vectors -= points.take(one, axis=0)
        squares = np.einsum("pi,pi->p", vectors, vectors)
        near = np.flatnonzero((squares < cutoff**2) & (squares > closest * abs(closest)))
        yield first[one[near]], second[other[near]]


def _perhaps_near(points: np.ndarray, others: np.ndarray, cutoff: float) -> np.ndarray:
    """
    Of all pairs of points (m, 3) and others (k, 3), whose numbers are k i + j, those within `cutoff`, and such that
    float32 cannot tell from them: |p|^2 - 2 p q + |q|^2 is wrong by some parts in 10^7 of |p|^2 + |q|^2.
    """
    left, right = np.ones((len(points), 5), dtype=np.float32), np.ones((5, len(others)), dtype=np.float32)
    left[:, :3], right[:3] = points, -2 * others.T
    left[:, 3], right[4] = np.einsum("ni,ni->n", points, points), np.einsum("ni,ni->n", others, others)
    limit = cutoff**2 + 2e-6 * (left[:, 3].max() + right[4].max())
    return np.flatnonzero((left @ right).reshape(-1) < limit)


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


def cell_fault(cell: np.ndarray) -> str | None:
    """What is wrong with a cell, (3, 3) in Å with zero rows where it is not periodic; None where nothing is."""
    if not np.isfinite(cell).all():
        return "the cell is not finite"
    lattice = cell[cell.any(axis=1)]
    # The smallest singular value is never more than the distance between opposite faces, and zero without volume.
    thickness = np.linalg.svd(lattice, compute_uv=False).min() if len(lattice) else np.inf
    if thickness >= THINNEST_CELL:
        return None
    return f"the cell is {thickness:.2g} Å thick; its lattice vectors lie in one plane, or are not in Å"


def thin_cells(cells: np.ndarray) -> np.ndarray:
    """(B,) which of the cells (B, 3, 3) have a [`cell_fault`]."""
    finite = np.isfinite(cells).all(axis=(1, 2))
    # A zero row adds one singular value of zero and leaves the others as they are.
    values = np.linalg.svd(np.where(finite[:, None, None], cells, 0.0), compute_uv=False)
    vectors = cells.any(axis=2).sum(axis=1)
    smallest = values[np.arange(len(values)), np.maximum(vectors - 1, 0)]
    return ~finite | ((smallest < THINNEST_CELL) & (vectors > 0))


__all__ = ["NeighbourList", "Neighbours", "find_neighbours", "find_wave_numbers", "turns_of", "wrap"]
