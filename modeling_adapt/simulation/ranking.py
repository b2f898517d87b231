"""Candidates ranked: which relaxed structures are the same minimum, which is lowest, and what the defect costs."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ..crystal.minimum_image import delta_q
from ..crystal.structure_match import Surroundings, match_atoms
from ..data.read.frames import read_frames
from ..errors import InputError
from ..feature_extraction_adapt import charge_of
from ..files import write_whole
from ..tables import csv_text, format_table, plus_minus
from .doubt import DifferenceDoubt
from .results import Line, result_file

SAME_ENVIRONMENT = 0.1  # Å; what a relaxation to 0.05 eV/Å leaves of soft coordinates
SAME_ENERGY = 0.02  # eV
SAME_SEPARATION = 0.5  # Å, of defects from each other; less than from a site to the next
SAME_CELL = 1e-2  # Å, and degrees
_FEW_ATOMS, _FEW_SHARE = 8, 0.25  # at most the larger of these is exchanged by defects in a host of so many atoms
_CELL_TOLERANCE = 1e-3  # Å; a supercell and its host share their cell
# Columns of ranking.csv, and of what of a candidate.
RANKING_COLUMNS = {
    "rank": "rank",
    "name": "name",
    "formula": "formula",
    "energy_ev": "energy",
    "energy_above_lowest_ev": "energy_above_lowest",
    "energy_above_lowest_uncertainty_ev": "energy_above_lowest_uncertainty",
    "formation_energy_ev": "formation_energy",
    "formation_energy_uncertainty_ev": "formation_energy_uncertainty",
    "same_as": "same_as",
    "delta_q_to_lowest_amu_half_ang": "delta_q_to_lowest",
}


@dataclass(frozen=True)
class Host:
    """
    The perfect crystal in the cell of the defects, and what a defect exchanges atoms with.

    Args:
        atoms (`Atoms`): The supercell without a defect.
        energy (`float`): Its total energy in eV, by the model that gives the energies of the defects.
        chemical_potentials (`Mapping[str, float]`):
            Energy of an atom of each element in its reservoir in eV, on the same scale.
        doubt ([`DifferenceDoubt`], *optional*): Of the model.
    """

    atoms: Atoms
    energy: float
    chemical_potentials: Mapping[str, float]
    doubt: DifferenceDoubt | None = None

    def __post_init__(self) -> None:
        """In a crystal of one element, its energy per atom is the chemical potential of that element."""
        elements = set(self.atoms.symbols)
        if len(elements) == 1 and not elements & self.chemical_potentials.keys():
            bulk = {elements.pop(): self._per_atom}
            object.__setattr__(self, "chemical_potentials", bulk | dict(self.chemical_potentials))

    @classmethod
    def by(cls, calculator: Any, atoms: Atoms, energy: float, chemical_potentials: Mapping[str, float]) -> "Host":
        """With the doubt of a calculator that has one, as an [`ADAPTCalculator`] may."""
        return cls(atoms, energy, chemical_potentials, DifferenceDoubt.by(calculator))

    def require_fits(self, atoms: Atoms) -> None:
        """
        Raises [`InputError`] unless `atoms` is neutral, in the cell of the host, differs from it by as few atoms as
        defects do, and what it exchanges has a reservoir.
        """
        if charge := charge_of(atoms):
            raise InputError(f"a charge of {charge:+g}; formation energies are of neutral defects")
        same_cell = np.allclose(atoms.cell.array, self.atoms.cell.array, atol=_CELL_TOLERANCE)
        if not (same_cell and np.array_equal(atoms.pbc, self.atoms.pbc)):
            raise InputError("its cell is not that of the host; give the perfect crystal in the same supercell")
        exchanged = self._exchanged(atoms)
        if (count := sum(map(abs, exchanged.values()))) > max(_FEW_ATOMS, _FEW_SHARE * len(self.atoms)):
            sizes = f"{atoms.get_chemical_formula()}, and the host {self.atoms.get_chemical_formula()}"
            raise InputError(f"differs by {count} atoms from the host: it is {sizes}; give its perfect crystal")
        for element in exchanged:
            if element not in self.chemical_potentials:
                raise InputError(f"there is no chemical potential of {element}; add {element}=ENERGY in eV")

    def formation_energy(self, atoms: Atoms, energy: float) -> float:
        """
        E_f = E(defect) - E(host) - sum_i n_i mu_i in eV for charge 0, with n_i atoms of element i added (Zhang and
        Northrup, Phys. Rev. Lett. 67, 2339 (1991); Freysoldt et al., Rev. Mod. Phys. 86, 253 (2014)).

        Args:
            atoms (`Atoms`): The defect in the cell of the host.
            energy (`float`): Its total energy in eV.
        """
        self.require_fits(atoms)
        exchanged = self._exchanged(atoms)
        return energy - self.energy - sum(n * self.chemical_potentials[element] for element, n in exchanged.items())

    def formation_uncertainty(self, atoms: Atoms) -> float | None:
        """
        Standard deviation of the formation energy in eV, or None without a doubt. What is wrong with the defect and
        the host alike cancels; chemical potentials that are not those of the host have no uncertainty of their own.
        """
        if self.doubt is None:
            return None
        own = {element for element in self.atoms.symbols if self.chemical_potentials.get(element) == self._per_atom}
        added = sum(count for element, count in self._exchanged(atoms).items() if element in own)
        hosts = 1 + added / len(self.atoms)
        assert self._reading is not None
        return float(self.doubt.deviation(self.doubt.read(atoms) - hosts * self._reading))

    @property
    def _per_atom(self) -> float:
        return self.energy / len(self.atoms)

    @cached_property
    def _reading(self) -> np.ndarray | None:
        """Of the host; it is subtracted from many others."""
        return None if self.doubt is None else self.doubt.read(self.atoms)

    def _exchanged(self, atoms: Atoms) -> dict[str, int]:
        """Atoms that the defect has more (or, negative, less) of each element than the host."""
        counts = Counter(atoms.symbols)
        counts.subtract(Counter(self.atoms.symbols))
        return {element: count for element, count in counts.items() if count}


@dataclass
class Candidate:
    """
    A relaxed structure among those of its composition.

    Args:
        name (`str`): As in the summary.
        atoms (`Atoms`): The relaxed structure.
        energy (`float`, *optional*): In eV, where the model gives energies.
        rank (`int`, *optional*):
            Place of its minimum by energy, from 1; equal for candidates in one minimum, None without energies.
        energy_above_lowest (`float`, *optional*): Energy minus that of the lowest candidate of the composition in eV.
        energy_above_lowest_uncertainty (`float`, *optional*):
            Standard deviation of that difference in eV, where the model tells it; less than those of both energies
            together, as what is wrong with both alike cancels.
        formation_energy (`float`, *optional*): In eV; None without a host.
        formation_energy_uncertainty (`float`, *optional*): Its standard deviation in eV, where the model tells it.
        same_as (`str`, defaults to `""`):
            Name of the lowest candidate in the same minimum; its own where it is that one.
        delta_q_to_lowest (`float`, *optional*):
            Mass-weighted distance to the lowest candidate of the composition in amu^1/2 Å, with atoms matched but
            neither sites nor origins, so that one minimum at two sites is far apart; None without energies and where
            the cells differ.
    """

    name: str
    atoms: Atoms
    energy: float | None
    rank: int | None = None
    energy_above_lowest: float | None = None
    energy_above_lowest_uncertainty: float | None = None
    formation_energy: float | None = None
    formation_energy_uncertainty: float | None = None
    same_as: str = ""
    delta_q_to_lowest: float | None = None

    @cached_property
    def formula(self) -> str:
        return self.atoms.get_chemical_formula()

    @cached_property
    def surroundings(self) -> Surroundings:
        """Of the relaxed structure; it is compared with many others."""
        return Surroundings.of(self.atoms)


def converged_candidates(output: Path, lines: Sequence[Line]) -> list[Candidate]:
    """The structures in a folder of `relax.py` that the lines of its summary call converged."""
    candidates = []
    for line in lines:
        if line["status"] == "converged":
            path = result_file(line["name"], output)
            if not path.is_file():
                print(f"warning: {path} is missing, so {line['name']} is not ranked", file=sys.stderr)
                continue
            (atoms,) = read_frames(path, "-1", "extxyz")
            candidates.append(Candidate(line["name"], atoms, float(line["energy_ev"]) if line["energy_ev"] else None))
    return candidates


def rank(
    candidates: Sequence[Candidate], host: Host | None = None, doubt: DifferenceDoubt | None = None
) -> list[Candidate]:
    """
    Fills in what [`Candidate`] says, within each composition and charge, and sorts: by formula and charge, then by
    energy.

    Two candidates are in one minimum if their energies differ by at most `SAME_ENERGY` and each atom of one is
    surrounded as an atom of the other is, to `SAME_ENVIRONMENT`, in the same cell and with the same separations of
    the defects, to `SAME_SEPARATION`: the same up to symmetry and the order of the atoms.
    """
    ranked: list[Candidate] = []
    for kind in sorted({(one.formula, charge_of(one.atoms)) for one in candidates}):
        group = [one for one in candidates if (one.formula, charge_of(one.atoms)) == kind]
        group.sort(key=lambda one: (np.inf if one.energy is None else one.energy, one.name))
        _group(group)
        _compare(group, doubt)
        for one in group:
            if host is not None and one.energy is not None:
                one.formation_energy = host.formation_energy(one.atoms, one.energy)
                one.formation_energy_uncertainty = host.formation_uncertainty(one.atoms)
        ranked += group
    return ranked


def _group(group: Sequence[Candidate]) -> None:
    """Which of the candidates of a composition, the lowest first, are one minimum."""
    minima: list[Candidate] = []
    for one in group:
        twin = next((minimum for minimum in minima if _same_minimum(minimum, one)), one)
        if twin is one:
            minima.append(one)
        one.same_as = twin.name
        one.rank = None if one.energy is None else minima.index(twin) + 1


def _compare(group: Sequence[Candidate], doubt: DifferenceDoubt | None) -> None:
    """Each candidate of a composition with the lowest, which is the first."""
    lowest = group[0]
    reading = None if doubt is None else doubt.read(lowest.atoms)
    for one in group:
        if one.energy is None or lowest.energy is None:
            continue
        one.energy_above_lowest = one.energy - lowest.energy
        one.delta_q_to_lowest = _matched_delta_q(lowest.atoms, one.atoms)
        if doubt is not None:
            difference = 0.0 if one is lowest else float(doubt.deviation(doubt.read(one.atoms) - reading))
            one.energy_above_lowest_uncertainty = difference


def _same_minimum(first: Candidate, second: Candidate) -> bool:
    if first.energy is not None and second.energy is not None and abs(first.energy - second.energy) > SAME_ENERGY:
        return False
    if not np.allclose(first.atoms.cell.cellpar(), second.atoms.cell.cellpar(), atol=SAME_CELL):
        return False
    ours, theirs = first.surroundings, second.surroundings
    return ours.same_separations(theirs, SAME_SEPARATION) and ours.difference(theirs) <= SAME_ENVIRONMENT


def _matched_delta_q(lowest: Atoms, atoms: Atoms) -> float | None:
    if not np.allclose(lowest.cell.array, atoms.cell.array, atol=1e-3):
        return None
    return delta_q(lowest, match_atoms(lowest, atoms))


def write_ranking(path: Path, ranked: Sequence[Candidate]) -> None:
    """Writes a CSV file with `RANKING_COLUMNS`; what is not known stays empty."""
    rows = [[getattr(one, name) for name in RANKING_COLUMNS.values()] for one in ranked]
    write_whole(path, csv_text([RANKING_COLUMNS, *rows]))


def ranking_table(ranked: Sequence[Candidate]) -> str:
    """The ranking to print: candidates in one minimum have one rank."""
    header = ["rank", "name", "formula", "E - lowest (eV)", "E_f (eV)", "same as", "ΔQ to lowest (amu^1/2 Å)"]

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    rows = [
        [
            str(one.rank or "-"),
            one.name,
            one.formula,
            number(one.energy_above_lowest) + plus_minus(one.energy_above_lowest_uncertainty),
            number(one.formation_energy) + plus_minus(one.formation_energy_uncertainty),
            "" if one.same_as == one.name else one.same_as,
            number(one.delta_q_to_lowest),
        ]
        for one in ranked
    ]
    return format_table(header, rows)
