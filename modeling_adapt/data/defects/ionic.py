"""
Ionic crystals for the generator: rock salt and zinc blende, their defects, and a potential that reaches as far as
charges do.

Ions are rigid: their charges act at all distances, by Ewald's sum, and pairs repel and attract one another by
A exp(-r / rho) - C / r^6 (Buckingham). A defect that is charged has its cell made neutral by a uniform background.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from matscipy.neighbours import neighbour_list
from scipy.special import erfc

from ...crystal.minimum_image import shortest_images
from ...neighbours_adapt import find_wave_numbers
from ..options import HOSTS
from .kinds import Defect, StructureKind, Workpiece, perfect_crystal, strained_crystal

CHARGES = {"Mg": 2.0, "O": -2.0, "Na": 1.0, "Cl": -1.0, "Al": 3.0, "Zn": 2.0, "S": -2.0}  # elementary charges
DOPANTS = {"Mg": "Al"}  # of another valence, on the site of the cation
BOND_FACTORS = (-0.1, 0.0, 0.1, 0.2)  # of the starts; ions that come closer have absurd forces

Buckingham = tuple[float, float, float]  # A in eV, rho in Å, C in eV Å^6
# Lewis and Catlow, J. Phys. C 18, 1149 (1985).
_OXIDE: dict[tuple[str, str], Buckingham] = {
    ("Mg", "O"): (1428.5, 0.2945, 0.0),
    ("Al", "O"): (1114.9, 0.3118, 0.0),
    ("O", "O"): (22764.3, 0.149, 27.879),
}
# Catlow, Diller and Norgett, J. Phys. C 10, 1395 (1977), as they are handed on: rounded, and without sodium pairs.
_CHLORIDE: dict[tuple[str, str], Buckingham] = {
    ("Na", "Cl"): (1170.41, 0.315, 0.0),
    ("Cl", "Cl"): (1227.2, 0.321, 14.53),
}
# Wright and Jackson, J. Mater. Chem. 5, 2037 (1995), without its shells and angles: zinc blende stays a minimum.
_SULFIDE: dict[tuple[str, str], Buckingham] = {
    ("Zn", "S"): (613.356, 0.399, 0.0),
    ("S", "S"): (1200.0, 0.149, 120.0),
}
_COULOMB = units.Hartree * units.Bohr  # e² / (4 π ε0) in eV Å


class RigidIons(Calculator):
    """
    Energy in eV and forces in eV/Å of rigid ions in a crystal, with a background where they have a net charge.

    Args:
        charges (`Mapping[str, float]`): In elementary charges, by symbol.
        pairs (`Mapping[tuple[str, str], Buckingham]`): A, rho and C by symbols; others do not meet but by charges.
        cutoff (`float`, defaults to `10.0`): Of pairs and of the part of Ewald's sum in space, in Å.
    """

    implemented_properties = ["energy", "forces"]

    def __init__(
        self, charges: Mapping[str, float], pairs: Mapping[tuple[str, str], Buckingham], cutoff: float = 10.0
    ) -> None:
        super().__init__()
        self.charges, self.cutoff, self.screening = dict(charges), cutoff, 3.6 / cutoff
        self.pairs = {tuple(sorted(pair)): values for pair, values in pairs.items()}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """ASE's entry point."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None  # ASE has just copied it there
        charges = np.array([self.charges[symbol] for symbol in self.atoms.symbols])
        parts = [self._in_space(self.atoms, charges), self._in_waves(self.atoms, charges)]
        energy, forces = (sum(values) for values in zip(*parts, strict=True))
        self.results = {"energy": float(energy), "forces": forces}

    def _in_space(self, ions: Atoms, charges: np.ndarray) -> tuple[float, np.ndarray]:
        first, second, distances, vectors = neighbour_list("ijdD", ions, self.cutoff)
        a, rho, c = self._parameters()[ions.numbers[first], ions.numbers[second]].T
        screened, product = self.screening * distances, _COULOMB * charges[first] * charges[second]
        coulomb, repulsion, attraction = erfc(screened) / distances, a * np.exp(-distances / rho), c / distances**6
        at_cutoff = a * np.exp(-self.cutoff / rho) - c / self.cutoff**6
        energies = product * coulomb + repulsion - attraction - at_cutoff
        screen = 2 * self.screening / np.sqrt(np.pi) * np.exp(-(screened**2))
        slopes = -product * (coulomb + screen) / distances - repulsion / rho + 6 * attraction / distances
        pulls = (slopes / distances)[:, None] * vectors
        forces = np.stack([np.bincount(first, axis, len(charges)) for axis in pulls.T], axis=1)
        return energies.sum() / 2, forces

    def _parameters(self) -> np.ndarray:
        """(119, 119, 3) by atomic numbers; a pair without has A = C = 0."""
        table = np.tile([0.0, 1.0, 0.0], (119, 119, 1))
        for pair, values in self.pairs.items():
            one, other = Atoms(pair).numbers
            table[one, other] = table[other, one] = values
        return table

    def _in_waves(self, ions: Atoms, charges: np.ndarray) -> tuple[float, np.ndarray]:
        cell, volume = ions.cell.array, ions.get_volume()
        numbers = find_wave_numbers(cell[None], 7.4 * self.screening)[0]  # half of all waves
        waves = 2 * np.pi * numbers @ np.linalg.inv(cell).T
        squares = np.einsum("ki,ki->k", waves, waves)
        weights = 4 * np.pi * _COULOMB / volume * np.exp(-squares / (4 * self.screening**2)) / squares
        phases = np.exp(1j * ions.positions @ waves.T)
        sums = charges @ phases
        energy = (weights * np.abs(sums) ** 2).sum()
        energy -= _COULOMB * self.screening / np.sqrt(np.pi) * (charges**2).sum()
        energy -= np.pi * _COULOMB * charges.sum() ** 2 / (2 * volume * self.screening**2)  # the background
        return energy, 2 * charges[:, None] * ((weights * (sums.conj() * phases).imag) @ waves)


def magnesium_oxide() -> Calculator:
    """Mg, O and Al with whole charges, and the pairs of Lewis and Catlow."""
    return RigidIons(CHARGES, _OXIDE)


def sodium_chloride() -> Calculator:
    """Na and Cl with whole charges, and the pairs of Catlow, Diller and Norgett."""
    return RigidIons(CHARGES, _CHLORIDE)


def zinc_sulfide() -> Calculator:
    """Zn and S with whole charges, and the pairs of Wright and Jackson."""
    return RigidIons(CHARGES, _SULFIDE)


def ionic_supercell(host: str, lattice_constant: float, repeat: int) -> Atoms:
    """Perfect rock salt or zinc blende, 8 `repeat`^3 ions."""
    return bulk(host, HOSTS[host].structure, a=lattice_constant, cubic=True) * repeat


def net_charge(atoms: Atoms) -> float:
    """Of all ions, in elementary charges."""
    return float(sum(CHARGES[symbol] for symbol in atoms.symbols))


def schottky_pair(host: Atoms, rng: np.random.Generator) -> Defect:
    """A cation and an anion taken out, at a random distance."""
    piece, (cation, anion) = Workpiece(host), _elements(host)
    first = _ion(host, cation, rng)
    piece.remove(first)
    piece.remove(_ion_at_distance(host, first, anion, rng))
    return piece.finished("schottky_pair")


def frenkel_pair(host: Atoms, rng: np.random.Generator) -> Defect:
    """A cation moved into a void between the ions, at a random distance."""
    piece, (cation, _) = Workpiece(host), _elements(host)
    first = _ion(host, cation, rng)
    piece.remove(first)
    beside = host.positions[_ion_at_distance(host, first, cation, rng)]
    piece.add(cation, beside + _to_void(host, rng))
    return piece.finished("frenkel_pair")


def charged_vacancy(host: Atoms, rng: np.random.Generator) -> Defect:
    """One ion taken out with its charge, of either kind."""
    piece = Workpiece(host)
    piece.remove(int(rng.integers(len(host))))
    return piece.finished("vacancy_charged")


def charged_substitution(host: Atoms, rng: np.random.Generator) -> Defect:
    """An ion of another valence in place of a cation."""
    piece, (cation, _) = Workpiece(host), _elements(host)
    piece.replace(_ion(host, cation, rng), DOPANTS[cation])
    return piece.finished("substitution_charged")


IONIC_KINDS: dict[str, StructureKind] = {
    "schottky_pair": schottky_pair,
    "frenkel_pair": frenkel_pair,
    "vacancy_charged": charged_vacancy,
    "substitution_charged": charged_substitution,
    "bulk": partial(perfect_crystal, "bulk"),
    "bulk_strained": strained_crystal,
    "bulk_thermal": partial(perfect_crystal, "bulk_thermal"),
}


def _elements(host: Atoms) -> tuple[str, str]:
    """Cation and anion."""
    one, other = sorted(set(host.symbols), key=lambda symbol: -CHARGES[symbol])
    return one, other


def _to_void(host: Atoms, rng: np.random.Generator) -> np.ndarray:
    """From a cation, in Å: to the middle of a cube of eight ions of rock salt, of four anions of zinc blende."""
    vectors = shortest_images(host.positions[1:] - host.positions[0], host.cell.array, host.pbc)
    distances = np.linalg.norm(vectors, axis=1)
    nearest = distances.min()
    if (distances < nearest + 0.01).sum() > 4:
        return 0.5 * nearest * rng.choice([-1.0, 1.0], 3)
    return 2 / np.sqrt(3) * nearest * rng.choice([-1.0, 1.0]) * np.eye(3)[rng.integers(3)]


def _ion(host: Atoms, symbol: str, rng: np.random.Generator) -> int:
    return int(rng.choice(np.flatnonzero(host.symbols == symbol)))


def _ion_at_distance(host: Atoms, first: int, symbol: str, rng: np.random.Generator) -> int:
    """Of all ions but the first, one in the shell nearest to a random distance up to half of the cell's diagonal."""
    vectors = shortest_images(host.positions - host.positions[first], host.cell.array, host.pbc)
    distances = np.linalg.norm(vectors, axis=1)
    distances[~(host.symbols == symbol) | (np.arange(len(host)) == first)] = np.inf
    reach = distances[np.isfinite(distances)].max()
    off = np.abs(distances - rng.uniform(0.0, reach))
    return int(rng.choice(np.flatnonzero(off < off.min() + 0.01)))
