"""Whether two structures are the same but for the order of their atoms, a shift, a rotation or a reflection."""

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ..data.minimum_image import shortest_images
from ..errors import InputError

_REACH = 5.0  # Å
_NEIGHBOURS = 24  # nearest of each element; more than there are within the reach in dense silicon hardly matter


def environment_distance(first: Atoms, second: Atoms) -> float:
    """
    How differently the atoms of two structures are surrounded: their atoms are paired so that the surroundings agree
    best, and the largest difference that is left is returned. It is 0 for what is the same up to symmetry; mirror
    images are the same.

    The surroundings of an atom are its distances to the nearest atoms of each element, in order, up to 5 Å.

    Returns:
        Å; infinite for structures of different composition.
    """
    if not np.array_equal(np.sort(first.numbers), np.sort(second.numbers)):
        return np.inf
    elements = np.unique(first.numbers)
    ours, theirs = (_surroundings(atoms, elements) for atoms in (first, second))
    largest = 0.0
    for element in elements:
        difference = cdist(ours[first.numbers == element], theirs[second.numbers == element], "chebyshev")
        # Cubed, so that the pairing avoids one large difference rather than many small ones.
        pairs = linear_sum_assignment(difference**3)
        largest = max(largest, float(difference[pairs].max()))
    return largest


def _surroundings(atoms: Atoms, elements: np.ndarray) -> np.ndarray:
    """(N, elements * `_NEIGHBOURS`) sorted distances in Å; `_REACH` where there are no more atoms."""
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
        [`InputError`]: they do not hold the same atoms.
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
