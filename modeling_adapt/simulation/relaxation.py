"""Relaxation by forces alone, watched by the trained region."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import FIRE

from .displacement import delta_q, largest_displacement
from .domain import TrainingDomain

Status = Literal["converged", "not converged", "left the trained region"]

# After these the forces are noise and further steps only add to the damage; other findings let the relaxation run on.
FATAL_FINDINGS = {"distance", "not finite"}


@dataclass(frozen=True)
class RelaxationResult:
    """
    Attributes:
        atoms: the last structure, with its forces in eV/Å (and energy in eV) attached.
        status: "converged" only if the largest force fell below `fmax` and no step left the trained region.
        steps: number of steps taken.
        fmax: largest force on an atom that is free to move, in eV/Å.
        largest_displacement: largest displacement of an atom from the start in Å, by the minimum image.
        delta_q: mass-weighted displacement from the start in amu^1/2 Å.
        energy_change: energy of the last structure minus that of the first, in eV; None without energies.
        findings: where the relaxation left the trained region and at which step, one line each.
    """

    atoms: Atoms
    status: Status
    steps: int
    fmax: float
    largest_displacement: float
    delta_q: float
    energy_change: float | None
    findings: tuple[str, ...]


def relax(
    atoms: Atoms,
    calculator: BaseCalculator,
    fmax: float = 0.05,
    steps: int = 500,
    domain: TrainingDomain | None = None,
    trajectory: str | Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> RelaxationResult:
    """
    Relaxes the positions of `atoms` in a fixed cell with FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)),
    which needs no energy. `atoms` itself stays as it is; its constraints are respected.

    Args:
        atoms: the structure to start from.
        calculator: any ASE calculator with forces.
        fmax: the relaxation has converged when no atom feels more than this, in eV/Å.
        steps: most steps to take.
        domain (*optional*): trained region of the model. A relaxation that leaves it is never "converged".
        trajectory (*optional*): extended XYZ file that receives each frame as soon as it is known.
        on_step (*optional*): called with the number of steps taken and the largest force in eV/Å.
    """
    start, atoms = atoms.copy(), atoms.copy()
    atoms.calc = calculator
    has_energy = "energy" in calculator.implemented_properties
    findings: dict[str, str] = {}
    first = frame = _frame(atoms, has_energy)
    step, converged, largest_force = 0, False, np.inf

    for step, converged in enumerate(_ForceFIRE(atoms, logfile=None).irun(fmax=fmax, steps=steps)):  # noqa: B007
        frame = _frame(atoms, has_energy)
        if trajectory is not None:
            _write(trajectory, frame, append=step > 0)
        largest_force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        if on_step is not None:
            on_step(step, largest_force)
        for kind, line in _findings(frame, start, domain).items():
            findings.setdefault(kind, f"step {step}: {line}")
        if FATAL_FINDINGS & findings.keys():
            break

    return RelaxationResult(
        atoms=frame,
        status="left the trained region" if findings else "converged" if converged else "not converged",
        steps=step,
        fmax=largest_force,
        largest_displacement=largest_displacement(start, frame),
        delta_q=delta_q(start, frame),
        energy_change=frame.get_potential_energy() - first.get_potential_energy() if has_energy else None,
        findings=tuple(findings.values()),
    )


class _ForceFIRE(FIRE):
    """FIRE for calculators without an energy, which ASE asks for in nothing but the line that it logs."""

    def log(self, *_: object) -> None:
        pass


def _write(path: str | Path, frame: Atoms, append: bool) -> None:
    """Writes the whole frame at once, so that the file can be read while, and after, anything happens."""
    text = io.StringIO()
    ase.io.write(text, frame, format="extxyz")
    with open(path, "a" if append else "w", encoding="utf-8") as file:
        file.write(text.getvalue())


def _frame(atoms: Atoms, has_energy: bool) -> Atoms:
    """A copy of `atoms` with its results frozen, without labels of the file it came from, which no longer hold."""
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, constraint=atoms.constraints)
    results = {"forces": atoms.get_forces(apply_constraint=False)}
    if has_energy:
        results["energy"] = atoms.get_potential_energy()
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def _findings(frame: Atoms, start: Atoms, domain: TrainingDomain | None) -> dict[str, str]:
    forces = frame.get_forces(apply_constraint=False)
    finite = np.isfinite(forces).all(axis=1)
    if not finite.all():
        atom = int(np.argmin(finite))
        return {"not finite": f"the force on {frame.symbols[atom]} (atom {atom}) is not finite"}
    return {} if domain is None else domain.findings(frame, start, forces)
