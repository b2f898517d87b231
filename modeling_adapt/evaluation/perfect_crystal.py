"""The crystal without its defects and vibrations, with the symmetry that makes every force in it vanish or balance."""

from itertools import product

import numpy as np
from ase import Atoms
from ase.geometry.minkowski_reduction import minkowski_reduce

from ..crystal.host_crystal import diffraction_peaks, host_of, host_translations, integer_basis
from ..errors import InputError

SAME_SITE = 0.1  # Å; sites that a symmetry brings closer than that are the same
SAME_METRIC = 1e-3  # relative; a cell that is more strained has a lower symmetry

_MATRICES = np.array(list(product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
_UNIMODULAR = _MATRICES[np.abs(np.rint(np.linalg.det(_MATRICES))) == 1]


def perfect_crystal(atoms: Atoms) -> Atoms | None:
    """
    The host crystal of a supercell with point defects, in its cell. [`host_of`] knows the sites to about 0.01 Å, which
    in a stiff crystal is 0.1 eV/Å; they are therefore averaged over the space group.

    Returns:
        None where `atoms` is no such supercell.
    """
    try:
        host = host_of(atoms)
    except InputError:
        return None
    fractional = host.cell.scaled_positions(host.positions)
    lattice = integer_basis(diffraction_peaks(host, fractional))
    _, unimodular = minkowski_reduce(lattice @ host.cell.reciprocal())
    indices = unimodular @ lattice
    cells = len(host_translations(lattice))
    size = len(host) // cells
    sites = fractional[:size] @ indices.T  # those of the first primitive cell; `host_of` repeats them in this order
    change = _averaged(sites, host.numbers[:size], indices @ host.cell.reciprocal()) - sites
    fractional += np.tile(change @ np.linalg.inv(indices).T, (cells, 1))
    return Atoms(host.numbers, scaled_positions=fractional, cell=host.cell, pbc=True)


def _averaged(sites: np.ndarray, numbers: np.ndarray, reciprocal: np.ndarray) -> np.ndarray:
    """
    Mean of sites (S, 3) over their images, each shifted so that it has the same centre.

    Args:
        sites: in fractional coordinates of a primitive cell.
        reciprocal: (3, 3) its reduced reciprocal vectors as rows, so that rotations are matrices of -1, 0 and 1.
    """
    metric = reciprocal @ reciprocal.T
    turned = _UNIMODULAR @ metric @ _UNIMODULAR.transpose(0, 2, 1)
    rotations = _UNIMODULAR[np.abs(turned - metric).max(axis=(1, 2)) < SAME_METRIC * np.abs(metric).max()]
    to_cartesian = np.linalg.inv(reciprocal).T  # x = u @ this
    total, count = np.zeros_like(sites), 0
    for rotation in rotations:
        image = sites @ rotation.T
        for target in np.flatnonzero(numbers == numbers[0]):
            apart = image + (sites[target] - image[0]) - sites[:, None]  # [site, image]
            apart -= np.rint(apart)
            distances = np.linalg.norm(apart @ to_cartesian, axis=2)
            match = distances.argmin(axis=1)
            rows = np.arange(len(sites))
            # The first site has a noise of its own, so the images may be off by twice as much before centring.
            fits = distances[rows, match].max() < 2 * SAME_SITE and np.array_equal(np.sort(match), rows)
            if fits and np.array_equal(numbers[match], numbers):
                moved = apart[rows, match]
                total, count = total + moved - moved.mean(axis=0), count + 1
    return sites + total / count
