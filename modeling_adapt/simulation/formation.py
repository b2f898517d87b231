"""Formation energies of neutral defects."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ..errors import InputError

_CELL_TOLERANCE = 1e-3  # Å; a supercell and its host share their cell


@dataclass(frozen=True)
class Host:
    """
    The perfect crystal in the cell of the defects, and what a defect exchanges atoms with.

    Attributes:
        atoms: the supercell without a defect.
        energy: its total energy in eV, by the model that gives the energies of the defects.
        chemical_potentials: energy of an atom of each element in its reservoir in eV, on the same scale.
    """

    atoms: Atoms
    energy: float
    chemical_potentials: Mapping[str, float]

    def __post_init__(self) -> None:
        """In a crystal of one element, its energy per atom is the chemical potential of that element."""
        elements = set(self.atoms.symbols)
        if len(elements) == 1 and not elements & self.chemical_potentials.keys():
            bulk = {elements.pop(): self.energy / len(self.atoms)}
            object.__setattr__(self, "chemical_potentials", bulk | dict(self.chemical_potentials))

    def require_fits(self, atoms: Atoms) -> None:
        """Raises [`InputError`] unless `atoms` is in the cell of the host, and what it exchanges has a reservoir."""
        same_cell = np.allclose(atoms.cell.array, self.atoms.cell.array, atol=_CELL_TOLERANCE)
        if not (same_cell and np.array_equal(atoms.pbc, self.atoms.pbc)):
            raise InputError("its cell is not that of the host; give the perfect crystal in the same supercell")
        for element in self._exchanged(atoms):
            if element not in self.chemical_potentials:
                raise InputError(f"there is no chemical potential of {element}; add {element}=ENERGY in eV")

    def formation_energy(self, atoms: Atoms, energy: float) -> float:
        """
        E_f = E(defect) - E(host) - sum_i n_i mu_i in eV for charge 0, with n_i atoms of element i added (Zhang and
        Northrup, Phys. Rev. Lett. 67, 2339 (1991); Freysoldt et al., Rev. Mod. Phys. 86, 253 (2014)).

        Args:
            atoms: the defect in the cell of the host.
            energy: its total energy in eV.
        """
        self.require_fits(atoms)
        exchanged = self._exchanged(atoms)
        return energy - self.energy - sum(n * self.chemical_potentials[element] for element, n in exchanged.items())

    def _exchanged(self, atoms: Atoms) -> dict[str, int]:
        """Atoms that the defect has more (or, negative, less) of each element than the host."""
        counts = Counter(atoms.symbols)
        counts.subtract(Counter(self.atoms.symbols))
        return {element: count for element, count in counts.items() if count}
