"""Labels from a potential: the calculator, and relaxations thinned to frames worth learning from."""

import importlib
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.optimize import FIRE

from ..errors import InputError

ABSURD_FORCE = 30.0  # eV/Å; a handful of frames with larger forces ruin a training


class LabelledFrame(NamedTuple):
    """A structure with its forces (N, 3) in eV/Å and energy in eV."""

    atoms: Atoms
    forces: np.ndarray
    energy: float


class Relaxation(NamedTuple):
    """Frames kept of a relaxation, in order, and how many were dropped because of absurd forces."""

    frames: list[LabelledFrame]
    dropped: int


def erhart_albe() -> Calculator:
    """The potential of Erhart and Albe for Si, C and SiC (doi 10.1103/PhysRevB.71.035211), through matscipy."""
    try:
        from matscipy.calculators.manybody import Manybody
        from matscipy.calculators.manybody.explicit_forms.tersoff_brenner import (
            Erhart_PRB_71_035211_SiC,
            TersoffBrenner,
        )
    except ImportError as error:
        raise InputError("labelling needs matscipy: pip install matscipy, or give --calculator") from error
    return Manybody(**TersoffBrenner(Erhart_PRB_71_035211_SiC))


def load_calculator(name: str) -> Calculator:
    """The calculator that `module:factory` makes, called without arguments.

    Raises:
        InputError: if there is no such module or factory, or it makes something that has no forces.
    """
    module, colon, factory = name.partition(":")
    if not (module and colon and factory):
        raise InputError(f"calculator {name!r}: write it as module:factory, such as ase.calculators.emt:EMT")
    try:
        calculator = getattr(importlib.import_module(module), factory)()
    except InputError:
        raise
    except Exception as error:  # a factory of the user's may raise anything
        raise InputError(f"calculator {name!r} cannot be made: {type(error).__name__}: {error}") from error
    if "forces" not in getattr(calculator, "implemented_properties", ()):
        raise InputError(f"calculator {name!r} is no ASE calculator with forces")
    return calculator


def relaxation_trajectory(
    atoms: Atoms,
    calculator: Calculator,
    *,
    frames: int = 10,
    max_steps: int = 60,
    fmax: float = 0.02,
    absurd_force: float = ABSURD_FORCE,
) -> Relaxation:
    """A short FIRE relaxation, of which well-spread frames are kept.

    Absurd frames (the force on an atom above `absurd_force`, or not finite) are dropped first; [`spread`] chooses
    among the others.

    Args:
        atoms: start; not modified.
        frames: number to keep at most.
        max_steps: FIRE steps at most.
        fmax: convergence in eV/Å.
        absurd_force: in eV/Å.
    """
    atoms = atoms.copy()
    atoms.calc = calculator
    path: list[LabelledFrame] = []
    dropped = 0

    def keep() -> None:
        nonlocal dropped
        forces = atoms.get_forces(apply_constraint=False)
        largest = np.linalg.norm(forces, axis=1).max()
        if not largest <= absurd_force:  # also true of NaN
            dropped += 1
            return
        copy = atoms.copy()
        copy.calc = None
        path.append(LabelledFrame(copy, forces.copy(), float(atoms.get_potential_energy())))

    optimizer = FIRE(atoms, logfile=None)
    optimizer.attach(keep)
    optimizer.run(fmax=fmax, steps=max_steps)
    return Relaxation([path[index] for index in spread(path, frames)], dropped)


def spread(path: list[LabelledFrame], frames: int) -> list[int]:
    """Indices of at most `frames` frames, first and last included, at equal distances along the path of the forces.

    In a relaxation most steps change little, and equal steps in time would give nearly equal structures. Yet the first
    steps change so much more than all others that a step counts with the square root of its force change: then the
    quiet end, where a relaxation is decided, gets its share.
    """
    if len(path) <= frames:
        return list(range(len(path)))
    changes = [
        np.abs(after.forces - before.forces).mean() ** 0.5 for before, after in zip(path, path[1:], strict=False)
    ]
    travelled: Any = np.concatenate(([0.0], np.cumsum(changes)))
    marks = np.linspace(0.0, travelled[-1], frames)
    return np.unique(np.abs(travelled[None, :] - marks[:, None]).argmin(axis=1)).tolist()
