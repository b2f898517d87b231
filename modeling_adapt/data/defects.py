"""Point defects in a silicon supercell, started away from their relaxed geometry.

Sites are random lattice or interstitial sites, orientations random among the equivalent ones, so that a model sees a
defect in every place of the cell and not in one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atom, Atoms
from ase.build import bulk

from ..errors import InputError
from .importance import defect_distances
from .minimum_image import shortest_images

SILICON_LATTICE_CONSTANT = 5.429  # Å; zero stress of the Erhart-Albe potential, which labels the generated data
SHORTEST_BONDS = {(6, 6): 1.2, (6, 14): 1.5, (14, 14): 1.9}  # Å; no start has two atoms closer than this
_NEIGHBOUR_SHELL = 3.0  # Å; what counts as bonded to a defect
_DUMBBELL = {"Si": 2.4, "C": 1.8}  # Å; length of a split interstitial of silicon with this atom


@dataclass
class Defect:
    """A supercell with one point defect.

    Args:
        atoms: the structure.
        kind: key of `STRUCTURE_KINDS`.
        site: (3,) lattice or interstitial site in Å; None in the perfect crystal.
        members: atoms that are the defect and carry its site along; empty for a vacancy.
    """

    atoms: Atoms
    kind: str
    site: np.ndarray | None
    members: tuple[int, ...] = ()

    def sites(self, positions: np.ndarray) -> np.ndarray:
        """(S, 3) defect sites in Å when the atoms are at `positions` (N, 3)."""
        if self.site is None:
            return np.zeros((0, 3))
        return positions[list(self.members)] if self.members else self.site[None, :]


def silicon_supercell(lattice_constant: float = SILICON_LATTICE_CONSTANT, repeat: int = 3) -> Atoms:
    """Perfect diamond-cubic silicon, 8 `repeat`^3 atoms; 216 by default."""
    return bulk("Si", "diamond", a=lattice_constant, cubic=True) * repeat


def perfect_crystal(host: Atoms, rng: np.random.Generator) -> Defect:
    """The host as it is; what becomes of it is up to the distortion."""
    return Defect(host.copy(), "bulk", None)


def vacancy(host: Atoms, rng: np.random.Generator) -> Defect:
    """One random atom taken out."""
    index = int(rng.integers(len(host)))
    atoms = host.copy()
    del atoms[index]
    return Defect(atoms, "vacancy", host.positions[index])


def tetrahedral_interstitial(host: Atoms, rng: np.random.Generator) -> Defect:
    """One silicon atom in the tetrahedral void opposite a random bond, one bond length behind its atom."""
    index, bonds = _random_bonds(host, rng)
    return _added(host, "interstitial_tetrahedral", "Si", host.positions[index] - bonds[0])


def hexagonal_interstitial(host: Atoms, rng: np.random.Generator) -> Defect:
    """One silicon atom in the centre of a random six-membered ring, half-way between two tetrahedral voids.

    From an atom with a bond (1, 1, 1) a/4 one such centre lies at (1, 1, -3) a/8; the others follow by symmetry: half
    the bond, with one component tripled and turned round.
    """
    index, bonds = _random_bonds(host, rng)
    offset = bonds[0] / 2.0
    axis = rng.integers(3)
    offset[axis] *= -3.0
    return _added(host, "interstitial_hexagonal", "Si", host.positions[index] + offset)


def split_interstitial(host: Atoms, rng: np.random.Generator) -> Defect:
    """Two silicon atoms share a random lattice site along a random <110>: the self-interstitial's ground state.

    The pair lies along the line between two neighbours of the site and gives way to them.
    """
    index, bonds = _random_bonds(host, rng)
    shift = -0.3 * (bonds[0] + bonds[1])
    return _dumbbell(host, "interstitial_split_110", "Si", index, bonds[0] - bonds[1], shift)


def carbon_substitutional(host: Atoms, rng: np.random.Generator) -> Defect:
    """Carbon in place of one random silicon atom."""
    index = int(rng.integers(len(host)))
    atoms = host.copy()
    atoms.symbols[index] = "C"
    return Defect(atoms, "carbon_substitutional", host.positions[index], (index,))


def carbon_interstitial(host: Atoms, rng: np.random.Generator) -> Defect:
    """Carbon and silicon share a random lattice site along a random <100>: the carbon interstitial's ground state."""
    index, bonds = _random_bonds(host, rng)
    direction = bonds[0] + bonds[1]
    return _dumbbell(host, "carbon_interstitial", "C", index, direction, 0.11 * direction)  # off centre: C is smaller


DEFECT_KINDS: dict[str, Callable[[Atoms, np.random.Generator], Defect]] = {
    "vacancy": vacancy,
    "interstitial_tetrahedral": tetrahedral_interstitial,
    "interstitial_hexagonal": hexagonal_interstitial,
    "interstitial_split_110": split_interstitial,
    "carbon_substitutional": carbon_substitutional,
    "carbon_interstitial": carbon_interstitial,
}
STRUCTURE_KINDS = DEFECT_KINDS | {"bulk": perfect_crystal}


def distort(
    defect: Defect, rng: np.random.Generator, bond: float = 0.12, rattle: float = 0.04, strain: float = 0.0
) -> Defect:
    """Moves a defect off its ideal geometry, so that its relaxation has something to do.

    Neighbours of the site go towards or away from it, each by a random share of their distance (standard deviation
    `bond`), every atom gets a Gaussian displacement of a random scale up to `rattle`, and the cell a random symmetric
    strain. Where atoms come closer than `SHORTEST_BONDS`, all is drawn anew, smaller each time.

    Args:
        bond: relative change of the distances to the site.
        rattle: largest standard deviation of the displacements in Å.
        strain: largest entry of the strain tensor.

    Raises:
        InputError: if atoms are too close even without distortion.
    """
    for scale in 0.8 ** np.arange(30):
        moved = defect.atoms.copy()
        moved.positions += rng.normal(scale=scale * rattle * rng.uniform(0.25, 1.0), size=moved.positions.shape)
        if defect.site is not None:
            shell, outward = _shell(defect)
            stretch = np.clip(rng.normal(scale=scale * bond, size=(len(shell), 1)), -0.3, 0.3)
            moved.positions[shell] += outward * stretch
        tensor = rng.uniform(-scale * strain, scale * strain, size=(3, 3))
        deformation = np.eye(3) + (tensor + tensor.T) / 2
        moved.set_cell(moved.cell.array @ deformation, scale_atoms=True)
        if not too_close(moved):
            site = None if defect.site is None else defect.site @ deformation
            return Defect(moved, defect.kind, site, defect.members)
    raise InputError(f"{defect.kind}: atoms are too close even without distortion; is the lattice constant in Å?")


def _shell(defect: Defect) -> tuple[np.ndarray, np.ndarray]:
    """The atoms bonded to the site, and the minimum-image vectors (M, 3) in Å from it to them."""
    atoms = defect.atoms
    vectors = shortest_images(atoms.positions - defect.site, atoms.cell.array, atoms.pbc)
    distances = np.linalg.norm(vectors, axis=1)
    shell = np.flatnonzero((distances < _NEIGHBOUR_SHELL) & (distances > 1e-6))
    return shell, vectors[shell]


def too_close(atoms: Atoms) -> bool:
    """Whether two atoms are closer than `SHORTEST_BONDS` allows (minimum image)."""
    distances = defect_distances(atoms.positions, atoms.positions, atoms.cell, atoms.pbc)
    np.fill_diagonal(distances, np.inf)
    return any(
        (distances[np.ix_(atoms.numbers == first, atoms.numbers == second)] < shortest).any()
        for (first, second), shortest in SHORTEST_BONDS.items()
    )


def _random_bonds(host: Atoms, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """A random atom and the minimum-image vectors (4, 3) to its neighbours in random order."""
    index = int(rng.integers(len(host)))
    vectors = host.get_distances(index, range(len(host)), mic=True, vector=True)
    order = np.argsort(np.linalg.norm(vectors, axis=1), kind="stable")
    return index, rng.permutation(vectors[order[1:5]])


def _added(host: Atoms, kind: str, symbol: str, site: np.ndarray) -> Defect:
    atoms = host.copy()
    site = site % host.cell.lengths()  # the cells are orthogonal
    atoms.append(Atom(symbol, site))
    return Defect(atoms, kind, site, (len(atoms) - 1,))


def _dumbbell(host: Atoms, kind: str, symbol: str, index: int, direction: np.ndarray, shift: np.ndarray) -> Defect:
    """Silicon atom `index` and a new atom on the two sides of its site, shifted together."""
    site = host.positions[index].copy()
    half = 0.5 * _DUMBBELL[symbol] * direction / np.linalg.norm(direction)
    atoms = host.copy()
    atoms.positions[index] = site + shift - half
    atoms.append(Atom(symbol, site + shift + half))
    return Defect(atoms, kind, site, (index, len(atoms) - 1))
