"""
What a potential says of a cubic crystal and its defects, each from energies and forces of an ASE calculator alone.

Strains are finite differences of the energy, so no stress is needed. Everything is measured in supercells of the
same size, as a model that was trained in one cell may know no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from ase import Atoms, units
from ase.build import bulk, surface
from ase.calculators.calculator import BaseCalculator
from ase.eos import EquationOfState
from ase.mep import NEB
from ase.optimize import FIRE

from ..crystal.minimum_image import shortest_images
from ..errors import InputError
from ..simulation.ranking import Host
from ..simulation.relaxation import relax

Vector = tuple[float, float, float]

_EOS_STRAIN = 0.015  # of the edge; where the curve is still that of Birch and Murnaghan to a thousandth
_EOS_POINTS = 7
_EOS_ATTEMPTS = 5  # at a range that has the minimum inside
_STRAIN = 0.005
_STRAINED_FMAX = 1e-3  # eV/Å; what is left of the internal strain enters the energy with its square
_SAME_SITE = 0.05  # lattice constants
_RATTLE = 0.05  # Å
_DISPLACEMENT = 0.01  # Å
_STEPS = 500
_PULLS = (0.13, 0.16)  # of the distance to the empty site
_BAND_STEPS = 150
_BAND_FMAX = 0.05  # eV/Å
_TO_GPA = 1 / units.GPa
_TO_J_PER_M2 = 1e20 * units._e  # of eV/Å^2
_TO_THZ = 1e-12 * np.sqrt(units._e / units._amu) * 1e10 / (2 * np.pi)  # of (eV/Å^2/amu)^1/2


@dataclass(frozen=True)
class Measured:
    """
    A number, and what to know of it.

    Args:
        value (`float`): In the unit of the answer.
        structure (`Atoms`, *optional*): Where the energy was taken, for whoever asks whether a model knows the like.
        notes (`tuple[str, ...]`, defaults to `()`): Of relaxations that did not converge, one line each.
        uncertainty (`float`, *optional*): Standard deviation, where the calculator tells it.
    """

    value: float
    structure: Atoms | None = None
    notes: tuple[str, ...] = ()
    uncertainty: float | None = None


@dataclass
class Crystal:
    """
    A perfect cubic crystal in the hands of a calculator; what was measured once is kept.

    Args:
        calculator (`BaseCalculator`): Any ASE calculator with energies and forces.
        formula, structure (`str`): As [`ase.build.bulk`] takes them; the structure has a cubic cell.
        start (`float`): Lattice constant in Å where the search for the minimum begins.
        cells (`int`): Cubic cells along an edge of the supercell.
        fmax (`float`, defaults to `0.02`): Up to which defects and surfaces are relaxed, in eV/Å.
    """

    calculator: BaseCalculator
    formula: str
    structure: str
    start: float
    cells: int
    fmax: float = 0.02
    _notes_of_strain: list[str] = field(default_factory=list, repr=False)
    _phonons: dict[tuple[float, ...], np.ndarray] = field(default_factory=dict, repr=False)

    def energy(self, atoms: Atoms) -> float:
        """In eV."""
        atoms = atoms.copy()
        atoms.calc = self.calculator
        return float(atoms.get_potential_energy())

    def supercell(self, lattice_constant: float) -> Atoms:
        """Perfect, with its first atom at the origin."""
        return bulk(self.formula, self.structure, a=lattice_constant, cubic=True) * self.cells

    @cached_property
    def _equation_of_state(self) -> tuple[float, float]:
        """Lattice constant in Å and bulk modulus in GPa by the equation of Birch and Murnaghan."""
        centre = self.start
        for _ in range(_EOS_ATTEMPTS):
            edges = centre * (1 + np.linspace(-_EOS_STRAIN, _EOS_STRAIN, _EOS_POINTS))
            energies = [self.energy(self.supercell(edge)) for edge in edges]
            lowest = int(np.argmin(energies))
            if 0 < lowest < _EOS_POINTS - 1:
                volumes = (edges * self.cells) ** 3
                volume, _, modulus = EquationOfState(volumes, energies, "birchmurnaghan").fit(warn=False)
                return float(volume ** (1 / 3) / self.cells), float(modulus * _TO_GPA)
            centre = float(edges[lowest])
        raise InputError(
            f"there is no minimum of the energy of {self.formula} ({self.structure}) near {self.start:g} Å: the model "
            "does not know this crystal"
        )

    @property
    def lattice_constant(self) -> float:
        """In Å."""
        return self._equation_of_state[0]

    @property
    def bulk_modulus(self) -> float:
        """In GPa."""
        return self._equation_of_state[1]

    @cached_property
    def perfect(self) -> Atoms:
        """The supercell at the lattice constant of the calculator."""
        return self.supercell(self.lattice_constant)

    @cached_property
    def host(self) -> Host:
        """The supercell as formation energies need it."""
        return Host.by(self.calculator, self.perfect, self.energy(self.perfect), {})

    @cached_property
    def elastic_constants(self) -> tuple[dict[str, float], tuple[str, ...]]:
        """C11, C12 and C44 in GPa, with the atoms relaxed in the strained cell, and notes of relaxations."""
        along = self._curvature(np.diag([1.0, 0.0, 0.0]))  # C11
        across = self._curvature(np.diag([1.0, 1.0, 0.0]))  # 2 (C11 + C12)
        shear = self._curvature(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))  # 4 C44
        found = {"C11": along, "C12": across / 2 - along, "C44": shear / 4}
        return found, tuple(dict.fromkeys(self._notes_of_strain))

    def _curvature(self, direction: np.ndarray) -> float:
        """Second derivative of the energy per volume along a strain (3, 3), in GPa, to the fourth order of it."""

        def strained(size: float) -> float:
            atoms = self.perfect.copy()
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + size * direction), scale_atoms=True)
            relaxed, notes = self._relax(atoms, "strained crystal", _STRAINED_FMAX)
            self._notes_of_strain += notes
            return float(relaxed.get_potential_energy())

        def second_difference(size: float) -> float:
            return (strained(size) + strained(-size) - 2 * self.host.energy) / size**2

        curvature = (4 * second_difference(_STRAIN) - second_difference(2 * _STRAIN)) / 3
        return float(curvature / self.perfect.get_volume() * _TO_GPA)

    def surface_energy(self, miller: Sequence[int], layers: int, vacuum: float) -> Measured:
        """
        Of a relaxed slab in J/m^2, cut where the planes of atoms are farthest apart, in the smallest surface cell.

        Args:
            miller (`Sequence[int]`): Indices of the face.
            layers (`int`): Thickness in repeats of the crystal along the normal.
            vacuum (`float`): In Å, between a slab and its image.
        """
        unit = bulk(self.formula, self.structure, a=self.lattice_constant, cubic=True)
        thick = surface(unit, miller, layers + 2, periodic=True)
        order = np.argsort(thick.get_positions()[:, 2], kind="stable")
        heights = thick.get_positions()[order, 2]
        size = len(thick) // (layers + 2)
        gaps = np.diff(heights[size : 2 * size + 1])
        first = size + 1 + int(np.argmax(np.round(gaps, 3)))
        slab = thick[order[first : first + size * layers]]
        slab.center(vacuum / 2, axis=2)
        slab.pbc = True
        found, notes = self._relax(slab, "slab")
        area = float(np.linalg.norm(np.cross(slab.cell[0], slab.cell[1])))
        excess = float(found.get_potential_energy()) - len(slab) * self.host.energy / len(self.perfect)
        return Measured(excess / (2 * area) * _TO_J_PER_M2, found, notes)

    def with_defect(self, remove: Sequence[Vector], add: Sequence[tuple[str, Vector]]) -> Atoms:
        """
        The supercell without some atoms and with others.

        Args:
            remove (`Sequence[Vector]`): Sites to empty, in lattice constants from the first atom.
            add (`Sequence[tuple[str, Vector]]`): Element and place of what comes in, likewise.

        Raises:
            [`InputError`]: There is no atom at a site to empty.
        """
        atoms = self.perfect.copy()
        emptied = [self.site(place) for place in remove]
        for element, place in add:
            atoms += Atoms(element, [np.multiply(place, self.lattice_constant)])
        del atoms[emptied]
        atoms.wrap()
        return atoms

    def site(self, place: Sequence[float]) -> int:
        """Number of the atom at `place`, in lattice constants."""
        wanted = np.multiply(place, self.lattice_constant)
        apart = shortest_images(self.perfect.positions - wanted, self.perfect.cell.array, self.perfect.pbc)
        distances = np.linalg.norm(apart, axis=1) / self.lattice_constant
        if distances.min() > _SAME_SITE:
            raise InputError(f"there is no atom at {', '.join(f'{one:g}' for one in place)} lattice constants")
        return int(distances.argmin())

    def formation_energy(self, atoms: Atoms, relaxed: bool = True, starts: int = 1) -> Measured:
        """
        Of a defect in eV; of several starts, all but the first off their places at random, the lowest counts.

        Args:
            atoms (`Atoms`): As [`with_defect`] makes it.
        """
        if not relaxed:
            found = self.host.formation_energy(atoms, self.energy(atoms))
            return Measured(found, atoms, uncertainty=self.host.formation_uncertainty(atoms))
        ends = []
        for number in range(starts):
            start = atoms.copy()
            if number:
                start.rattle(_RATTLE, seed=number)
            ends.append(self._relax(start, "defect"))
        lowest, notes = min(ends, key=lambda one: one[0].get_potential_energy())
        found = self.host.formation_energy(lowest, float(lowest.get_potential_energy()))
        return Measured(found, lowest, notes, self.host.formation_uncertainty(lowest))

    def migration_barrier(self, empty: Vector, hop: Vector, images: int) -> Measured:
        """
        Of a vacancy in eV: the atom at `hop` moves to the site `empty`, along a nudged elastic band with a climbing
        image (Henkelman, Uberuaga and Jonsson, J. Chem. Phys. 113, 9901 (2000)).

        Args:
            empty, hop (`Vector`): Sites in lattice constants.
            images (`int`): Between the two ends; an odd number has one at the top of a symmetric path.
        """
        site, moving = self.site(empty), self.site(hop)
        start = self.perfect.copy()
        start.positions = self._pulled(site)
        del start[site]
        before, notes = self._relax(start, "start of the path")
        after, others = self._relax(self._hopped(before, site, moving), "end of the path")
        band = [before.copy(), *(before.copy() for _ in range(images)), after.copy()]
        for image in band:
            image.calc = self.calculator
        chain = NEB(band, climb=True, allow_shared_calculator=True, method="improvedtangent")
        chain.interpolate("idpp", mic=True)
        if not FIRE(chain, logfile=None).run(fmax=max(_BAND_FMAX, self.fmax), steps=_BAND_STEPS):
            others = (*others, f"the path has not converged after {_BAND_STEPS} steps")
        energies = [self.energy(image) for image in band]
        top = int(np.argmax(energies))
        return Measured(energies[top] - min(energies[0], energies[-1]), band[top], (*notes, *others))

    def _pulled(self, site: int) -> np.ndarray:
        """(N, 3) positions with the neighbours of `site` closer to it, in two pairs: around an empty site, the
        symmetric structure may be a maximum, or one that a potential of short range never leaves."""
        positions = self.perfect.positions.copy()
        way = shortest_images(positions - positions[site], self.perfect.cell.array, self.perfect.pbc)
        distances = np.linalg.norm(way, axis=1)
        distances[site] = np.inf
        for number, neighbour in enumerate(np.flatnonzero(distances < 1.05 * distances.min())):
            positions[neighbour] -= _PULLS[number // 2 % 2] * way[neighbour]
        return positions

    def _hopped(self, before: Atoms, site: int, moving: int) -> Atoms:
        """
        The vacancy after the atom `moving` went to `site`: `before` inverted at the middle of its way, where that maps
        the crystal onto itself, so that both ends are the same structure; otherwise made as the first one was.
        """
        perfect, cell, pbc = self.perfect.positions, self.perfect.cell.array, self.perfect.pbc
        way = shortest_images(perfect[[site]] - perfect[[moving]], cell, pbc)[0]
        inverted = 2 * perfect[moving] + way - perfect
        images = [int(np.linalg.norm(shortest_images(perfect - one, cell, pbc), axis=1).argmin()) for one in inverted]
        off = np.linalg.norm(shortest_images(perfect[images] - inverted, cell, pbc), axis=1).max()
        after = self.perfect.copy()
        if off < _SAME_SITE and np.array_equal(self.perfect.numbers[images], self.perfect.numbers):
            moved = np.insert(before.positions - np.delete(perfect, site, axis=0), site, 0.0, axis=0)
            after.positions[images] = perfect[images] - moved
            after.positions[moving] = perfect[moving] + way - moved[moving]
        else:
            after.positions = self._pulled(moving)
            after.positions[moving] = perfect[moving] + way + (after.positions[site] - perfect[site])
        del after[site]
        return after

    def phonons(self, wave_vector: Sequence[float]) -> np.ndarray:
        """
        Frequencies (3 P) in THz, ascending and negative where imaginary, of the P atoms of a primitive cell, by finite
        displacements in the supercell.

        Args:
            wave_vector (`Sequence[float]`): In 2 pi by the lattice constant.

        Raises:
            [`InputError`]: The wave does not fit into the supercell.
        """
        known = tuple(map(float, wave_vector))
        if known not in self._phonons:
            self._phonons[known] = self._frequencies(known)
        return self._phonons[known]

    def _frequencies(self, wave_vector: tuple[float, ...]) -> np.ndarray:
        waves = np.multiply(wave_vector, self.cells)
        if np.abs(waves - np.rint(waves)).max() > 1e-6:
            raise InputError(f"a phonon at {list(wave_vector)} does not fit into {self.cells} cells")
        primitive = bulk(self.formula, self.structure, a=self.lattice_constant)
        kinds, firsts = self._sublattices(primitive)
        size = 3 * len(primitive)
        wave = 2 * np.pi * np.array(wave_vector) / self.lattice_constant
        dynamical = np.zeros((size, size), dtype=complex)
        masses = self.perfect.get_masses()
        for row, atom in enumerate(firsts):
            phases = np.exp(1j * (self.perfect.positions - self.perfect.positions[atom]) @ wave)
            for axis in range(3):
                constants = self._force_constants(atom, axis) * phases[:, None]
                for column, other in enumerate(firsts):
                    total = constants[kinds == column].sum(axis=0)
                    scale = np.sqrt(masses[atom] * masses[other])
                    dynamical[3 * row + axis, 3 * column : 3 * column + 3] = total / scale
        squares = np.linalg.eigvalsh((dynamical + dynamical.conj().T) / 2)
        return np.sign(squares) * np.sqrt(np.abs(squares)) * _TO_THZ

    def _sublattices(self, primitive: Atoms) -> tuple[np.ndarray, list[int]]:
        """Of each atom of the supercell which one of the primitive cell it repeats, and the first atom of each."""
        apart = self.perfect.positions[:, None] - primitive.positions
        fractional = np.linalg.solve(primitive.cell.array.T, apart.reshape(-1, 3).T).T.reshape(apart.shape)
        kinds = np.abs(fractional - np.rint(fractional)).max(axis=2).argmin(axis=1)
        return kinds, [int(np.flatnonzero(kinds == kind)[0]) for kind in range(len(primitive))]

    def _force_constants(self, atom: int, axis: int) -> np.ndarray:
        """(N, 3) second derivatives of the energy by this coordinate and all others, in eV/Å^2."""
        forces = []
        for sign in (1, -1):
            atoms = self.perfect.copy()
            atoms.positions[atom, axis] += sign * _DISPLACEMENT
            atoms.calc = self.calculator
            forces.append(atoms.get_forces())
        return (forces[1] - forces[0]) / (2 * _DISPLACEMENT)

    def _relax(self, atoms: Atoms, what: str, fmax: float | None = None) -> tuple[Atoms, tuple[str, ...]]:
        found = relax(atoms, self.calculator, fmax=fmax or self.fmax, steps=_STEPS)
        if found.status == "converged":
            return found.atoms, ()
        note = f"{what} of {len(atoms)} atoms not converged: {found.fmax:.2g} eV/Å after {found.steps} steps"
        return found.atoms, (note,)
