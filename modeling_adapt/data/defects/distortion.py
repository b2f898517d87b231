"""Starts away from the ideal geometry, in the manner of ShakeNBreak: bonds of the defect distorted, all atoms rattled.

Mosquera-Lois, Kavanagh, Walsh and Scanlon, npj Comput. Mater. 9, 25 (2023), doi 10.1038/s41524-023-00973-1.
"""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ...crystal.minimum_image import shortest_images
from ...errors import InputError
from .kinds import Defect, Site, random_deformation, too_close, too_close_atoms

BOND_FACTORS = tuple(round(0.1 * step, 1) for step in range(-6, 7))  # relative changes of a distance, -60 % to +60 %
# ShakeNBreak distorts as many neighbours as the defect changes valence electrons: 4 where an atom of silicon or carbon
# is missing or added. Carbon on a silicon site changes none; its four bonds are distorted all the same.
_DISTORTED_NEIGHBOURS = 4
# A divacancy's site has three bonds; the next atom, 3.84 Å away, would be moved into the other vacancy.
_LONGEST_BOND = 3.0  # Å
_ATTEMPTS = 30
_SHRINKING = 0.8  # of what is too large, from one attempt to the next


def distort(
    defect: Defect,
    rng: np.random.Generator,
    *,
    bond_factors: Sequence[float] = BOND_FACTORS,
    rattle: float = 0.04,
    strain: float = 0.0,
) -> Defect:
    """Moves a defect off its ideal geometry, so that its relaxation has something to do.

    The cell gets a random symmetric strain. The atoms bonded to each site, up to four, go away from it or towards it
    by a random one of the factors that keep atoms apart. Then every atom gets a Gaussian displacement of a random
    scale, and those too close to another one get new, smaller ones. No two atoms end closer than [`shortest_bond`].

    Args:
        bond_factors (`Sequence[float]`, defaults to `BOND_FACTORS`):
            Relative changes of the distances to the site to choose from.
        rattle (`float`, defaults to `0.04`): Largest standard deviation of the displacements in Å.
        strain (`float`, defaults to `0.0`): Largest entry of the strain tensor.

    Raises:
        [`InputError`]: Atoms are too close even without distortion.
    """
    moved = _strained(defect, rng, strain)
    for site in moved.sites:
        _distort_bonds(moved, site, rng, bond_factors)
    _rattle(moved.atoms, rng, rattle * rng.uniform(0.25, 1.0))
    return moved


def _strained(defect: Defect, rng: np.random.Generator, strain: float) -> Defect:
    for scale in _SHRINKING ** np.arange(_ATTEMPTS):
        deformation = random_deformation(scale * strain, rng)
        atoms = defect.atoms.copy()
        atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        if not too_close(atoms):
            sites = (Site(site.kind, site.position @ deformation, site.atoms) for site in defect.sites)
            return Defect(atoms, defect.kind, tuple(sites))
    raise InputError(f"{defect.kind}: atoms are too close even without distortion; is the lattice constant in Å?")


def _distort_bonds(defect: Defect, site: Site, rng: np.random.Generator, factors: Sequence[float]) -> None:
    """Moves the neighbours of a site, by the first factor in random order that keeps atoms apart; else not at all."""
    atoms, ideal = defect.atoms, defect.atoms.positions.copy()
    outward = shortest_images(ideal - site.at(ideal), atoms.cell.array, atoms.pbc)
    distances = np.linalg.norm(outward, axis=1)
    distances[list(site.atoms)] = np.inf
    # Equally distant neighbours, such as the six of a hexagonal interstitial, are chosen from at random.
    order = np.lexsort((rng.random(len(atoms)), np.round(distances, 2)))
    chosen = [atom for atom in order[:_DISTORTED_NEIGHBOURS] if distances[atom] < _LONGEST_BOND]
    for factor in rng.permutation(factors):
        atoms.positions[chosen] = ideal[chosen] + factor * outward[chosen]
        if not too_close(atoms):
            return
    atoms.positions[:] = ideal


def _rattle(atoms: Atoms, rng: np.random.Generator, scale: float) -> None:
    """Gaussian displacements with standard deviation `scale` in Å, drawn anew and smaller for atoms too close."""
    ideal = atoms.positions.copy()
    scales = np.full((len(atoms), 1), scale)
    again = np.arange(len(atoms))
    for _ in range(_ATTEMPTS):
        atoms.positions[again] = ideal[again] + scales[again] * rng.normal(size=(len(again), 3))
        again = np.unique(too_close_atoms(atoms))
        if not len(again):
            return
        scales[again] *= _SHRINKING
    atoms.positions[:] = ideal
