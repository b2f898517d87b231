"""The cell of a crystal by the stress of a model, before its defects are made in it."""

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from ..errors import InputError


def relax_cell(atoms: Atoms, calculator: Calculator, fmax: float = 0.005, steps: int = 500) -> tuple[Atoms, str, bool]:
    """
    Relaxes cell and positions of a crystal without pressure, by ASE's `FrechetCellFilter` and FIRE.

    Args:
        atoms (`Atoms`): Periodic in all three directions; it stays as it is.
        calculator (`Calculator`): One with a stress.
        fmax (`float`, defaults to `0.005`):
            Converged when no atom feels more than this, in eV/Å, nor the strain of each atom's share, in eV.
        steps (`int`, defaults to `500`): Most steps to take.

    Returns:
        `tuple[Atoms, str, bool]`: The crystal in its new cell, a line about what became of it, and whether it has
        converged.

    Raises:
        [`InputError`]: The model has no stress, or the structure none as it is no crystal.
    """
    require_cell_to_relax(atoms, calculator)
    free = atoms.copy()
    free.calc = calculator
    converged = bool(FIRE(FrechetCellFilter(free), logfile=None).run(fmax=fmax, steps=steps))
    before, after = (" ".join(f"{length:.3f}" for length in one.cell.lengths()) for one in (atoms, free))
    left = np.abs(free.get_stress()).max() / units.GPa
    change = 100 * (free.get_volume() / atoms.get_volume() - 1)
    line = f"cell edges from {before} to {after} Å, volume {change:+.2f} %, stress left {left:.3f} GPa"
    free.calc = None
    return free, line, converged


def require_cell_to_relax(atoms: Atoms, calculator: Calculator) -> None:
    """Raises [`InputError`] as [`relax_cell`] does."""
    if "stress" not in calculator.implemented_properties:
        raise InputError(
            "the model has no stress, which relaxes cells; a pooled energy of architecture 'pairwise' has"
        )
    if not atoms.pbc.all():
        raise InputError("only a structure that is periodic in all three directions has a cell to relax")


__all__ = ["relax_cell", "require_cell_to_relax"]
