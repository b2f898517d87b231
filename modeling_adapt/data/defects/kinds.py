"""What a silicon supercell may hold: point defects, pairs and clusters of them, or a strained cell or a surface.

Orientations are random among the equivalent ones, so that a model sees a defect in every position and not in one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement

import numpy as np
from ase import Atom, Atoms
from ase.build import bulk, cut
from ase.data import atomic_numbers, covalent_radii

from ...crystal.contacts import contacts
from ...crystal.minimum_image import shortest_images
from ..options import SILICON_LATTICE_CONSTANT

SHORTEST_BONDS = {(6, 6): 1.2, (6, 14): 1.5, (14, 14): 1.9}  # Å; no start has two atoms closer than this
_SHORTEST_SHARE = 0.6  # of the sum of the covalent radii, for other pairs
_BONDED = (2.0, 3.0)  # Å; from one lattice site to its neighbours
_CLOSE = (2.0, 4.6)  # Å; to the first three shells of neighbours
_ATTEMPTS = 100  # at a complex whose atoms are not too close; a few suffice
_DUMBBELL = {"Si": 2.4, "C": 1.8}  # Å; length of a split interstitial of silicon with this atom; others by radii
_LARGEST_STRAIN = 0.03
_VACUUM = 12.0  # Å
# Orthogonal cells in multiples of the cubic lattice vectors: two along the surface, one out of it.
_FACES = (
    ((0.5, 0.5, 0.0), (-0.5, 0.5, 0.0), (0.0, 0.0, 1.0)),  # (100)
    ((0.5, -0.5, 0.0), (0.5, 0.5, -1.0), (1.0, 1.0, 1.0)),  # (111)
)
_CUT = (0.125, 0.125, 0.125)  # between two layers; of (111) the widely spaced ones, so that each atom loses one bond


def silicon_supercell(lattice_constant: float = SILICON_LATTICE_CONSTANT, repeat: int = 3) -> Atoms:
    """Perfect diamond-cubic silicon, 8 `repeat`^3 atoms; 216 by default."""
    return bulk("Si", "diamond", a=lattice_constant, cubic=True) * repeat


def shortest_bond(one: int, other: int) -> float:
    """In Å, of two elements by their atomic numbers, the smaller first."""
    return SHORTEST_BONDS.get((one, other), _SHORTEST_SHARE * (covalent_radii[one] + covalent_radii[other]))


def too_close(atoms: Atoms) -> bool:
    """Whether two atoms are closer than [`shortest_bond`] allows (minimum image)."""
    return len(too_close_atoms(atoms)) > 0


def too_close_atoms(atoms: Atoms) -> np.ndarray:
    """Indices of the atoms that are too close to another one; an atom may be listed several times."""
    pairs = list(combinations_with_replacement(np.unique(atoms.numbers).tolist(), 2))
    first, second, distances = contacts(atoms, max(shortest_bond(*pair) for pair in pairs))
    low, high = np.sort(atoms.numbers[[first, second]], axis=0)
    bad = np.zeros(len(first), dtype=bool)
    for one, other in pairs:
        bad |= (low == one) & (high == other) & (distances < shortest_bond(one, other))
    return np.concatenate((first[bad], second[bad]))


@dataclass(frozen=True)
class Site:
    """One defect site.

    Args:
        kind (`str`): `v_Si` (vacancy), `Si_i` or `C_i` (interstitial), `C_Si` (substitution).
        position (`np.ndarray` of shape `(3,)`): In Å, where the defect was put.
        atoms (`tuple[int, ...]`, defaults to `()`):
            Atoms that carry the site along, half-way between them if there are two; empty for a vacancy.
    """

    kind: str
    position: np.ndarray
    atoms: tuple[int, ...] = ()

    def at(self, positions: np.ndarray) -> np.ndarray:
        """(3,) where the site is in Å when the atoms are at `positions` (N, 3)."""
        return positions[list(self.atoms)].mean(axis=0) if self.atoms else self.position


@dataclass(frozen=True)
class Defect:
    """A structure with its defect sites; without any for a perfect crystal or a surface.

    Args:
        atoms (`Atoms`): The structure.
        kind (`str`): Key of `STRUCTURE_KINDS`.
        sites (`tuple[Site, ...]`, defaults to `()`): The defects in it.
    """

    atoms: Atoms
    kind: str
    sites: tuple[Site, ...] = ()

    def site_positions(self, positions: np.ndarray) -> np.ndarray:
        """(S, 3) defect sites in Å when the atoms are at `positions` (N, 3)."""
        return np.array([site.at(positions) for site in self.sites]).reshape(-1, 3)

    @property
    def site_kinds(self) -> list[str]:
        """What each of the sites is."""
        return [site.kind for site in self.sites]


class Workpiece:
    """A host crystal while defects are put into it. Its atoms keep their numbers until it is finished."""

    def __init__(self, host: Atoms) -> None:
        self.host = host
        self._atoms = host.copy()
        self._removed: set[int] = set()
        self._sites: list[Site] = []

    def remove(self, index: int) -> None:
        """Leaves lattice site `index` vacant."""
        self._removed.add(index)
        self._sites.append(Site(f"v_{self.host.symbols[index]}", self.host.positions[index]))

    def replace(self, index: int, symbol: str) -> None:
        """Another element on lattice site `index`."""
        self._atoms.symbols[index] = symbol
        self._sites.append(Site(f"{symbol}_{self.host.symbols[index]}", self.host.positions[index], (index,)))

    def add(self, symbol: str, position: np.ndarray) -> None:
        """An atom at `position` in Å, wrapped into the cell, which is orthogonal."""
        position = position % self.host.cell.lengths()
        self._atoms.append(Atom(symbol, position))
        self._sites.append(Site(f"{symbol}_i", position, (len(self._atoms) - 1,)))

    def split(self, index: int, symbol: str, direction: np.ndarray, shift: np.ndarray) -> None:
        """The atom of lattice site `index` and a new one on its two sides along `direction`, shifted together."""
        radii = covalent_radii[atomic_numbers[symbol]] + covalent_radii[self.host.numbers[index]]
        half = 0.5 * _DUMBBELL.get(symbol, radii) * direction / np.linalg.norm(direction)
        centre = self.host.positions[index] + shift
        self._atoms.positions[index] = centre - half
        self._atoms.append(Atom(symbol, centre + half))
        added = len(self._atoms) - 1
        alike = symbol == self.host.symbols[index]  # then neither is more the defect than the other
        where, atoms = (centre, (index, added)) if alike else (centre + half, (added,))
        self._sites.append(Site(f"{symbol}_i", where, atoms))

    def finished(self, kind: str) -> Defect:
        """The structure without the removed atoms."""
        kept = np.array([index not in self._removed for index in range(len(self._atoms))])
        number = np.cumsum(kept) - 1
        sites = (
            Site(site.kind, site.position, tuple(int(number[atom]) for atom in site.atoms)) for site in self._sites
        )
        return Defect(self._atoms[kept], kind, tuple(sites))


def vacancy(piece: Workpiece, index: int, rng: np.random.Generator) -> None:
    """One atom taken out."""
    piece.remove(index)


def tetrahedral_interstitial(piece: Workpiece, index: int, rng: np.random.Generator) -> None:
    """One silicon atom in the tetrahedral void opposite a random bond, one bond length behind the atom."""
    piece.add("Si", piece.host.positions[index] - _bonds(piece.host, index, rng)[0])


def hexagonal_interstitial(piece: Workpiece, index: int, rng: np.random.Generator) -> None:
    """One silicon atom in the centre of a random six-membered ring, half-way between two tetrahedral voids.

    From an atom with a bond (1, 1, 1) a/4 one such centre lies at (1, 1, -3) a/8; the others follow by symmetry: half
    the bond, with one component tripled and turned round.
    """
    offset = _bonds(piece.host, index, rng)[0] / 2.0
    offset[rng.integers(3)] *= -3.0
    piece.add("Si", piece.host.positions[index] + offset)


def split_interstitial(piece: Workpiece, index: int, rng: np.random.Generator) -> None:
    """Two silicon atoms share a lattice site along a random <110>: the self-interstitial's ground state.

    The pair lies along the line between two neighbours of the site and gives way to them.
    """
    bonds = _bonds(piece.host, index, rng)
    piece.split(index, "Si", direction=bonds[0] - bonds[1], shift=-0.3 * (bonds[0] + bonds[1]))


def carbon_substitutional(piece: Workpiece, index: int, rng: np.random.Generator) -> None:
    """Carbon in place of one silicon atom."""
    piece.replace(index, "C")


def carbon_interstitial(piece: Workpiece, index: int, rng: np.random.Generator) -> None:
    """Carbon and silicon share a lattice site along a random <100>: the carbon interstitial's ground state."""
    bonds = _bonds(piece.host, index, rng)
    direction = bonds[0] + bonds[1]
    piece.split(index, "C", direction, shift=0.11 * direction)  # off centre: carbon is smaller


def _bonds(host: Atoms, index: int, rng: np.random.Generator) -> np.ndarray:
    """The minimum-image vectors (4, 3) in Å from a lattice site to its neighbours, in random order."""
    vectors = shortest_images(host.positions - host.positions[index], host.cell.array, host.pbc)
    order = np.argsort(np.linalg.norm(vectors, axis=1), kind="stable")
    return rng.permutation(vectors[order[1:5]])


SELF_INTERSTITIALS = ("interstitial_tetrahedral", "interstitial_hexagonal", "interstitial_split_110")
POINT_DEFECTS: dict[str, Callable[[Workpiece, int, np.random.Generator], None]] = {
    "vacancy": vacancy,
    "interstitial_tetrahedral": tetrahedral_interstitial,
    "interstitial_hexagonal": hexagonal_interstitial,
    "interstitial_split_110": split_interstitial,
    "carbon_substitutional": carbon_substitutional,
    "carbon_interstitial": carbon_interstitial,
}


def strained_crystal(host: Atoms, rng: np.random.Generator) -> Defect:
    """The host under a random symmetric strain of up to 3 % in each entry."""
    atoms = host.copy()
    atoms.set_cell(atoms.cell.array @ random_deformation(_LARGEST_STRAIN, rng), scale_atoms=True)
    return Defect(atoms, "bulk_strained")


def random_deformation(strain: float, rng: np.random.Generator) -> np.ndarray:
    """(3, 3) symmetric deformation that rows of positions and of the cell are multiplied with."""
    tensor = rng.uniform(-strain, strain, size=(3, 3))
    return np.eye(3) + (tensor + tensor.T) / 2


def surface(host: Atoms, rng: np.random.Generator) -> Defect:
    """An ideal (100) or (111) slab, about as wide and as thick as the host.

    It is periodic in all directions, with 12 Å of vacuum, as plane-wave codes need it; the normal is along z.
    """
    repeat = round((len(host) / 8) ** (1 / 3))
    edge = host.cell.lengths()[0]
    crystal = bulk("Si", "diamond", a=edge / repeat, cubic=True)
    along, across, outward = _FACES[rng.integers(len(_FACES))]
    unit = cut(crystal, a=along, b=across, c=outward, origo=_CUT)
    unit.set_cell(unit.cell.lengths(), scale_atoms=True)  # turns the orthogonal cell into the coordinate system
    slab = unit * np.maximum(1, np.rint(edge / unit.cell.lengths())).astype(int)
    slab.cell[2, 2] += _VACUUM
    slab.center(axis=2)
    return Defect(slab, "surface")


StructureKind = Callable[[Atoms, np.random.Generator], Defect]


def perfect_crystal(kind: str, host: Atoms, rng: np.random.Generator) -> Defect:
    """The host as it is; what becomes of it is up to the distortion."""
    return Defect(host.copy(), kind)


def point_defect(kind: str, host: Atoms, rng: np.random.Generator) -> Defect:
    """One of `POINT_DEFECTS` at a random site."""
    piece = Workpiece(host)
    POINT_DEFECTS[kind](piece, int(rng.integers(len(host))), rng)
    return piece.finished(kind)


def defect_complex(
    kind: str, members: Sequence[Sequence[str]], within: tuple[float, float], host: Atoms, rng: np.random.Generator
) -> Defect:
    """Several of `POINT_DEFECTS`, each at a lattice site at a random distance from the one before.

    Args:
        members (`Sequence[Sequence[str]]`): For each defect those to choose from.
        within (`tuple[float, float]`): Least and largest distance in Å.
    """
    for _ in range(_ATTEMPTS):
        piece = Workpiece(host)
        taken: list[int] = []
        for choices in members:
            index = _site_at_distance(host, taken, within, rng) if taken else int(rng.integers(len(host)))
            POINT_DEFECTS[choices[int(rng.integers(len(choices)))]](piece, index, rng)
            taken.append(index)
        defect = piece.finished(kind)
        if not too_close(defect.atoms):
            break
    return defect  # whatever is still too close by now is too close everywhere, which the distortion reports


def random_pair(kind: str, host: Atoms, rng: np.random.Generator) -> Defect:
    """Two random point defects at a random distance up to half the cell.

    A vacancy and an interstitial are no such pair: they would annihilate.
    """
    names = list(POINT_DEFECTS)
    first = names[rng.integers(len(names))]
    partners = [name for name in names if not _annihilate(first, name)]
    return defect_complex(kind, ((first,), partners), (_CLOSE[0], host.cell.lengths().min() / 2), host, rng)


def _annihilate(*names: str) -> bool:
    return "vacancy" in names and any("interstitial" in name for name in names)


def _site_at_distance(host: Atoms, taken: Sequence[int], within: tuple[float, float], rng: np.random.Generator) -> int:
    """A random lattice site in the shell nearest to a random distance from the last one taken."""
    vectors = shortest_images(host.positions - host.positions[taken[-1]], host.cell.array, host.pbc)
    distances = np.linalg.norm(vectors, axis=1)
    distances[list(taken)] = np.inf
    off = np.abs(distances - rng.uniform(*within))
    return int(rng.choice(np.flatnonzero(off < off.min() + 0.01)))


_VACANCY, _SUBSTITUTION, _INTERSTITIAL = ("vacancy",), ("carbon_substitutional",), ("carbon_interstitial",)
_COMPLEXES: dict[str, tuple[tuple[tuple[str, ...], ...], tuple[float, float]]] = {
    "divacancy": ((_VACANCY, _VACANCY), _BONDED),
    "carbon_pair_substitutional": ((_SUBSTITUTION, _SUBSTITUTION), _CLOSE),
    "carbon_pair_interstitial": ((_SUBSTITUTION, _INTERSTITIAL), _CLOSE),
    "carbon_vacancy": ((_SUBSTITUTION, _VACANCY), _CLOSE),
    "di_interstitial": ((SELF_INTERSTITIALS,) * 2, _CLOSE),
    "tri_interstitial": ((SELF_INTERSTITIALS,) * 3, _CLOSE),
}
DEFECT_KINDS: dict[str, StructureKind] = {
    **{kind: partial(point_defect, kind) for kind in POINT_DEFECTS},
    **{kind: partial(defect_complex, kind, *recipe) for kind, recipe in _COMPLEXES.items()},
    "pair_random": partial(random_pair, "pair_random"),
}
# Structures without a point defect: what a model of defects should get right all the same.
STRUCTURE_KINDS: dict[str, StructureKind] = {
    **DEFECT_KINDS,
    "bulk": partial(perfect_crystal, "bulk"),
    "bulk_strained": strained_crystal,
    "bulk_thermal": partial(perfect_crystal, "bulk_thermal"),
    "surface": surface,
}
THERMAL_KINDS = ("bulk_thermal",)  # always molecular dynamics, never a relaxation
