"""Simple point defects: how each is put into a silicon crystal, at a given lattice site.

Orientations are random among the equivalent ones, so that a model sees a defect in every position and not in one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atom, Atoms

from ...crystal.minimum_image import shortest_images

_DUMBBELL = {"Si": 2.4, "C": 1.8}  # Å; length of a split interstitial of silicon with this atom


@dataclass(frozen=True)
class Site:
    """One defect site.

    Args:
        kind: `v_Si` (vacancy), `Si_i` or `C_i` (interstitial), `C_Si` (substitution).
        position: (3,) in Å, where the defect was put.
        atoms: atoms that carry the site along, half-way between them if there are two; empty for a vacancy.
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
        atoms: the structure.
        kind: key of `STRUCTURE_KINDS`.
        sites: the defects in it.
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
        half = 0.5 * _DUMBBELL[symbol] * direction / np.linalg.norm(direction)
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
