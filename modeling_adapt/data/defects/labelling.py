"""Labels from a potential: the calculator, and trajectories thinned to frames worth learning from."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.optimize import FIRE
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms.tersoff_brenner import Erhart_PRB_71_035211_SiC, TersoffBrenner
from matscipy.neighbours import CutoffNeighbourhood, first_neighbours, triplet_list

from ...errors import InputError, one_line

ABSURD_FORCE = 30.0  # eV/Å; a handful of frames with larger forces ruin a training
_TIME_STEP = 2.0 * units.fs  # a twentieth of the fastest vibration, that of carbon between silicon atoms
_FRICTION = 0.02 / units.fs  # strong, because a run of 0.1 ps must reach its temperature


class LabelledFrame(NamedTuple):
    """A structure with its forces (N, 3) in eV/Å and energy in eV."""

    atoms: Atoms
    forces: np.ndarray
    energy: float


class Trajectory(NamedTuple):
    """
    Args:
        frames (`list[LabelledFrame]`): Those kept, in order.
        dropped (`int`): Number of frames with absurd forces, which are not among them.
        failure (`str`, *optional*):
            What the calculator raised, in one line, and where the trajectory therefore ends; None if it did not.
    """

    frames: list[LabelledFrame]
    dropped: int
    failure: str | None


class TripletNeighbourhood(CutoffNeighbourhood):
    """Finds triplets of atoms i, j, k without looking for the pair j, k in the list of pairs.

    Only second derivatives need that pair, and its search, a loop in Python, takes more than half of the time of an
    evaluation of forces. All else is as in the parent, to the bit.
    """

    def get_triplets(
        self,
        atoms: Atoms,
        quantities: str,
        neighbours: list[np.ndarray] | None = None,
        cutoff: float | None = None,
    ) -> list[np.ndarray]:
        """`quantities` of all triplets as the parent gives them; those with `k` come from the parent itself."""
        if "k" in quantities:
            return super().get_triplets(atoms, quantities, neighbours, cutoff)
        cutoff = self.cutoff if cutoff is None else cutoff
        i_p, _, distances, vectors = neighbours or self.get_pairs(atoms, "ijdD", cutoff)
        ij, ik = triplet_list(first_neighbours(len(atoms), i_p), distances, cutoff)
        triangles = np.stack((vectors[ij], vectors[ik], vectors[ik] - vectors[ij]), axis=1)
        sides = np.linalg.norm(triangles, axis=-1)
        return self.make_result(quantities, np.stack((ij, ik), axis=1), triangles, sides, None, "ijdD")


def erhart_albe() -> Calculator:
    """The potential of Erhart and Albe for Si, C and SiC (doi 10.1103/PhysRevB.71.035211), through matscipy."""
    form = TersoffBrenner(Erhart_PRB_71_035211_SiC)
    return Manybody(**form, neighbourhood=TripletNeighbourhood(form["atom_type"], form["pair_type"]))


def load_calculator(name: str) -> Calculator:
    """The calculator that `module:factory` makes, called without arguments.

    Raises:
        [`InputError`]: There is no such module or factory, or it makes something that has no forces.
    """
    module, colon, factory = name.partition(":")
    if not (module and colon and factory):
        raise InputError(f"calculator {name!r}: write it as module:factory, such as ase.calculators.emt:EMT")
    if (folder := os.getcwd()) not in sys.path:  # where an installed command does not look; the library comes first
        sys.path.append(folder)
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
) -> Trajectory:
    """A short FIRE relaxation, of which well-spread frames are kept.

    Absurd frames (the force on an atom above `ABSURD_FORCE`) are dropped first; [`spread`] chooses among the others.

    Args:
        atoms (`Atoms`): Start; not modified.
        frames (`int`, defaults to `10`): Number to keep at most.
        max_steps (`int`, defaults to `60`): FIRE steps at most.
        fmax (`float`, defaults to `0.02`): Convergence in eV/Å.
    """

    def run(atoms: Atoms, keep: Callable[[], None]) -> None:
        optimizer = FIRE(atoms, logfile=None)
        optimizer.attach(keep)
        optimizer.run(fmax=fmax, steps=max_steps)

    return _labelled(atoms, calculator, run, frames)


def dynamics_trajectory(
    atoms: Atoms,
    calculator: Calculator,
    rng: np.random.Generator,
    *,
    temperature: float,
    frames: int = 10,
    steps: int = 60,
) -> Trajectory:
    """Short Langevin dynamics at constant volume, of which well-spread frames are kept as of a relaxation.

    Velocities start at twice the temperature: atoms at rest positions give half of it away at once.

    Args:
        atoms (`Atoms`): Start; not modified.
        temperature (`float`): In K.
        frames (`int`, defaults to `10`): Number to keep at most.
        steps (`int`, defaults to `60`): Of 2 fs.
    """

    def run(atoms: Atoms, keep: Callable[[], None]) -> None:
        atoms.set_constraint(FixCom())  # no drift away from the sites
        variances = 2 * units.kB * temperature * atoms.get_masses()
        atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(variances)[:, None])
        dynamics = Langevin(
            atoms, _TIME_STEP, temperature_K=temperature, friction=_FRICTION, fixcm=False, rng=rng, logfile=None
        )
        dynamics.attach(keep)
        dynamics.run(steps)

    return _labelled(atoms, calculator, run, frames)


class _StoredPrecision(Atoms):
    """Atoms at positions that float32 represents, so that labels belong exactly to what a data set stores."""

    def set_positions(self, *args: Any, **kwargs: Any) -> None:
        super().set_positions(*args, **kwargs)
        self.positions[:] = self.positions.astype(np.float32)


def _labelled(
    atoms: Atoms,
    calculator: Calculator,
    run: Callable[[Atoms, Callable[[], None]], None],
    frames: int,
) -> Trajectory:
    """Lets `run` move a copy of `atoms` and keeps well-spread frames of what it calls back for."""
    moving = _StoredPrecision(atoms.numbers, atoms.positions.astype(np.float32), cell=atoms.cell, pbc=atoms.pbc)
    moving.calc = calculator
    path: list[LabelledFrame] = []
    dropped = 0

    def keep() -> None:
        nonlocal dropped
        forces = moving.get_forces(apply_constraint=False)
        energy = float(moving.get_potential_energy())
        if not (np.isfinite(forces).all() and np.isfinite(energy)):
            raise FloatingPointError("forces or energy are not finite numbers")
        if np.linalg.norm(forces, axis=1).max() > ABSURD_FORCE:
            dropped += 1
            return
        still = Atoms(moving.numbers, moving.positions, cell=moving.cell, pbc=moving.pbc)
        path.append(LabelledFrame(still, forces.copy(), energy))

    failure = None
    try:
        run(moving, keep)
    except Exception as error:  # what a calculator raises is its own affair
        failure = f"{type(error).__name__}: {one_line(error)}"
    return Trajectory([path[index] for index in spread(path, frames)], dropped, failure)


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
