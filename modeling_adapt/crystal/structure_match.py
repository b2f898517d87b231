"""Whether two structures are the same but for the order of their atoms, a shift, a rotation or a reflection."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ..errors import InputError
from .defect_sites import find_defects
from .minimum_image import shortest_images

_REACH = 5.0  # Å
_NEIGHBOURS = 24  # nearest of each element; more than there are within the reach in dense silicon hardly matter


@dataclass(frozen=True)
class Surroundings:
    """
    What a structure looks like from each of its atoms.

    Args:
        numbers (`np.ndarray` of shape `(N,)`): Atomic numbers.
        distances (`np.ndarray` of shape `(N, E * 24)`):
            In Å to the nearest atoms of each of E elements, in order; 5 Å where there are no more.
        separations (`np.ndarray`):
            Sorted distances in Å between the point defects, by the minimum image: defects farther apart than 5 Å see
            nothing of each other. Empty where no crystal with point defects is found.
    """

    numbers: np.ndarray
    distances: np.ndarray
    separations: np.ndarray

    def same_separations(self, other: "Surroundings", tolerance: float) -> bool:
        """Whether the defects are equally far apart, to `tolerance` Å; also where not as many are found in both."""
        if self.separations.shape != other.separations.shape:
            return True  # the surroundings decide, of which a number of defects is only an interpretation
        return bool((np.abs(self.separations - other.separations) <= tolerance).all())

    @classmethod
    def of(cls, atoms: Atoms) -> "Surroundings":
        return cls(atoms.numbers.copy(), _distances(atoms, np.unique(atoms.numbers)), _separations(atoms))

    def difference(self, other: "Surroundings") -> float:
        """
        How differently the atoms of two structures are surrounded in Å: they are paired so that the surroundings agree
        best, and the largest difference that is left is returned. It is 0 for what is the same up to symmetry; mirror
        images are the same. Infinite for other atoms.
        """
        if not np.array_equal(np.sort(self.numbers), np.sort(other.numbers)):
            return np.inf
        largest = 0.0
        for element in np.unique(self.numbers):
            ours, theirs = (one.distances[one.numbers == element] for one in (self, other))
            difference = cdist(ours, theirs, "chebyshev")
            # Cubed, so that the pairing avoids one large difference rather than many small ones.
            pairs = linear_sum_assignment(difference**3)
            largest = max(largest, float(difference[pairs].max()))
        return largest


def _separations(atoms: Atoms) -> np.ndarray:
    try:
        positions = np.array([one.position for one in find_defects(atoms)]).reshape(-1, 3)
    except InputError:
        return np.zeros(0)
    first, second = np.triu_indices(len(positions), 1)
    offsets = shortest_images(positions[second] - positions[first], atoms.cell.array, atoms.pbc)
    return np.sort(np.linalg.norm(offsets, axis=1))


def _distances(atoms: Atoms, elements: np.ndarray) -> np.ndarray:
    centers, neighbours, distances = neighbor_list("ijd", atoms, _REACH)
    result = np.full((len(atoms), len(elements), _NEIGHBOURS), _REACH)
    for column, element in enumerate(elements):
        chosen = np.flatnonzero(atoms.numbers[neighbours] == element)
        chosen = chosen[np.lexsort((distances[chosen], centers[chosen]))]
        starts = np.searchsorted(centers[chosen], np.arange(len(atoms)))
        place = np.arange(len(chosen)) - starts[centers[chosen]]
        kept = chosen[place < _NEIGHBOURS]
        result[centers[kept], column, place[place < _NEIGHBOURS]] = distances[kept]
    return result.reshape(len(atoms), -1)


def match_atoms(reference: Atoms, atoms: Atoms) -> Atoms:
    """
    `atoms` in the order in which they lie nearest to those of `reference`, element by element: the sum of squared
    displacements (minimum image) is least. Both are in the same cell, at the same origin.

    Raises:
        [`InputError`]: They do not hold the same atoms.
    """
    if not np.array_equal(np.sort(reference.numbers), np.sort(atoms.numbers)):
        raise InputError(
            f"cannot match {atoms.get_chemical_formula()} with {reference.get_chemical_formula()}: other atoms"
        )
    order = np.zeros(len(atoms), dtype=int)
    for element in np.unique(atoms.numbers):
        ours, theirs = np.flatnonzero(reference.numbers == element), np.flatnonzero(atoms.numbers == element)
        vectors = atoms.positions[None, theirs] - reference.positions[ours, None]
        shortest = shortest_images(vectors.reshape(-1, 3), reference.cell.array, reference.pbc)
        squared = np.square(shortest).sum(axis=1).reshape(len(ours), len(theirs))
        rows, columns = linear_sum_assignment(squared)
        order[ours[rows]] = theirs[columns]
    return atoms[order]
