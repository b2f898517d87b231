"""Relaxation by forces alone, watched by the trained region; and of cells, by a stress."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator, Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS
from tqdm import tqdm

from ..crystal.minimum_image import delta_q, displacements, largest_displacement
from ..crystal.trained_region import TrainingDomain
from ..errors import InputError
from ..feature_extraction_adapt import charge_of
from .calculator import ADAPTCalculator
from .exchange import as_atoms
from .trajectory import TrajectoryFile

Status = Literal["converged", "not converged", "left the trained region"]

# After these the forces are noise and further steps only add to the damage; other findings let the relaxation run on.
FATAL_FINDINGS = {"distance", "not finite"}
FINISHED = 0.002  # eV/Å; what is compared by its energy is to be at a minimum
_FINISHED_ROUGHLY = 0.01  # eV/Å; products in bfloat16 leave noise that no further step takes away
DISPLACED = 0.1  # Å; farther than the noise of a relaxation moves an atom
BATCHED_ON_CPU = 160  # atoms; what is larger fills a processor by itself, and is slower beside others
STIFFNESS = 70.0  # eV/Å², of the first step; ASE's own, and more than that of silicon
MEMORY = 30  # steps from which L-BFGS tells the stiffness
_STIFFNESSES = (5.0, 1000.0)  # eV/Å², what a step may tell of it
_SMALL = 1e-12  # Å², eV; what a step is and brings where nothing moves


@dataclass(frozen=True)
class RelaxationResult:
    """
    Args:
        atoms (`Atoms`): The last structure, with its forces in eV/Å (and energy in eV) attached.
        status (`Status`): "converged" only if the largest force fell below `fmax` and no step left the trained region.
        steps (`int`): Number of steps taken.
        fmax (`float`): Largest force on an atom that is free to move, in eV/Å.
        largest_displacement (`float`): Largest displacement of an atom from the start in Å, by the minimum image.
        delta_q (`float`): Mass-weighted displacement from the start in amu^1/2 Å.
        displaced_atoms (`int`): Number of atoms that moved by more than `DISPLACED`.
        energy_change (`float`, *optional*):
            Energy of the last structure minus that of the first, in eV; None without energies.
        forces_std (`float`, *optional*):
            Largest spread of the forces on an atom of the last structure in eV/Å, where they are means over symmetry
            images or an ensemble; the spread of each atom is the array `forces_std` of `atoms`.
        findings (`tuple[str, ...]`): Where the relaxation left the trained region and at which step, one line each.
        energy_uncertainty (`float`, *optional*): Standard deviation of the energy in eV, where the model tells it.
        atom_doubt (`float`, *optional*):
            Largest of an atom, see [`ADAPTCalculator`]; that of each atom is the array `atom_doubt` of `atoms`.
    """

    atoms: Atoms
    status: Status
    steps: int
    fmax: float
    largest_displacement: float
    delta_q: float
    displaced_atoms: int
    energy_change: float | None
    findings: tuple[str, ...]
    forces_std: float | None = None
    energy_uncertainty: float | None = None
    atom_doubt: float | None = None


def relax(
    atoms: Atoms,
    calculator: BaseCalculator,
    fmax: float = 0.05,
    steps: int = 500,
    domain: TrainingDomain | None = None,
    trajectory: str | Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    finish: float | None = None,
) -> RelaxationResult:
    """
    Relaxes the positions of `atoms` in a fixed cell with L-BFGS (Liu and Nocedal, Math. Program. 45, 503 (1989)), in
    a third of the steps of FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)). FIRE serves where the forces are
    not the gradient of an energy: L-BFGS loses its way among them. `atoms` itself stays as it is; its constraints are
    respected.

    Args:
        atoms (`Atoms`): The structure to start from; a pymatgen structure or a defect entry of doped does as well.
        calculator (`BaseCalculator`): Any ASE calculator with forces.
        fmax (`float`, defaults to `0.05`): The relaxation has converged when no atom feels more than this, in eV/Å.
        steps (`int`, defaults to `500`): Most steps to take.
        domain ([`TrainingDomain`], *optional*):
            Trained region of the model. A relaxation that leaves it is never "converged".
        trajectory (`str` or `Path`, *optional*): Extended XYZ file that receives each frame as soon as it is known.
        on_step (`Callable[[int, float], None]`, *optional*):
            Called with the number of steps taken and the largest force in eV/Å.
        finish (`float`, *optional*):
            Below `fmax`: how far a relaxation that has converged goes on, for `steps` more at most, in eV/Å. At `fmax`
            it may still be on a plateau; whether it has converged is judged by the forces at its end.
    """
    watch = RelaxationWatch(as_atoms(atoms), fmax, domain, trajectory, on_step, steps, finish)
    for _ in relaxing(watch, calculator):
        pass
    spread = calculator.results.get("forces_std") if isinstance(calculator, Calculator) else None
    return watch.result(spread)


def relaxing(watch: "RelaxationWatch", calculator: BaseCalculator) -> Iterator[Atoms]:
    """
    The steps of a relaxation as they are taken, from the start to the end; who has seen enough may ask for no more.

    Args:
        watch ([`RelaxationWatch`]): Of the structure to relax; it has the result.
        calculator (`BaseCalculator`): Any ASE calculator with forces.
    """
    atoms = watch.start.copy()
    atoms.calc = calculator
    has_energy = "energy" in calculator.implemented_properties
    conservative = getattr(calculator, "conservative", has_energy)
    optimizer = Descent(atoms) if conservative else FIRE(atoms, logfile=None)
    while True:  # the loop of ASE asks four times for the same forces, and compares all atoms before each answer
        energy = atoms.get_potential_energy() if has_energy else None
        over = watch.see(atoms.positions, atoms.get_forces(apply_constraint=False), energy)
        yield watch.frame
        if over:
            return
        optimizer.step()


def relax_each(
    structures: Mapping[str, Atoms],
    calculator: ADAPTCalculator,
    fmax: float = 0.05,
    steps: int = 500,
    trajectory: Callable[[str], Path | None] = lambda name: None,
    one_by_one: bool = False,
    finish: float | None = None,
) -> Iterator[tuple[str, RelaxationResult]]:
    """
    [`relax`] for each of `structures` in the trained region of the model, with a result as soon as one ends: many at
    once what torch-sim can, where it is installed; then one after the other. Bars show the progress.

    Args:
        trajectory (`Callable[[str], Path | None]`, *optional*):
            From a name to the file that receives each frame, or None.
        one_by_one (`bool`, defaults to `False`): Nothing at once.
        finish (`float`, *optional*): As in [`relax`].
    """
    domain = calculator.domain
    together = {} if one_by_one else {name: one for name, one in structures.items() if can_batch(one, calculator)}
    if len(together) < 2:  # torch-sim takes longer to be imported than one small structure to relax
        together = {}
    if together:
        from .batched import relax_batched

        with tqdm(total=len(together), desc="relaxing", unit=" structures", leave=False, disable=None) as bar:
            for name, result in relax_batched(together, calculator.model, fmax, steps, domain, trajectory, finish):
                bar.update()
                yield name, doubted(result, calculator)
    for name in [name for name in structures if name not in together]:
        with progress_bar(name, steps) as show:
            result = relax(structures[name], calculator, fmax, steps, domain, trajectory(name), show, finish)
        yield name, doubted(result, calculator)


def finished_at(calculator: BaseCalculator) -> float:
    """The largest force in eV/Å at which a structure is at its minimum, as far as the precision of the model tells."""
    return _FINISHED_ROUGHLY if getattr(calculator, "low_precision", False) else FINISHED


@contextmanager
def progress_bar(name: str, steps: int) -> Iterator[Callable[[int, float], None]]:
    """A bar, and what it is shown: the number of steps taken and the largest force in eV/Å."""
    with tqdm(desc=name, total=steps, unit=" steps", leave=False, disable=None) as bar:

        def show(step: int, largest_force: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix_str(f"fmax {largest_force:.3f} eV/Å")

        yield show


def doubted(result: RelaxationResult, calculator: ADAPTCalculator) -> RelaxationResult:
    """With the uncertainty of the energy of the last structure and the doubt of its atoms, where the model has any."""
    doubt = getattr(calculator, "doubt", None)  # which calculators of others have not
    if doubt is None:
        return result
    if "atom_doubt" in calculator.results and not calculator.check_state(result.atoms):
        of_atoms, uncertainty = (calculator.results[name] for name in ("atom_doubt", "energy_uncertainty"))
    else:  # another structure was the last
        features = calculator.features(result.atoms)
        of_atoms, uncertainty = doubt.of_atoms(features), float(doubt.deviation(features.sum(axis=0)))
    result.atoms.set_array("atom_doubt", of_atoms)
    return replace(result, energy_uncertainty=uncertainty, atom_doubt=float(of_atoms.max()))


def require_predictable(atoms: Atoms, calculator: Calculator) -> None:
    """Raises [`InputError`] unless one prediction tells that the models take the structure."""
    calculator.reset()  # what is known of another structure
    calculator.calculate(atoms, [name for name in calculator.implemented_properties if name != "stress"])
    if not all(np.isfinite(values).all() for values in calculator.results.values()):
        raise InputError("the model predicts values that are not finite")


def relax_cell(atoms: Atoms, calculator: Calculator, fmax: float = 0.005, steps: int = 500) -> tuple[Atoms, str, bool]:
    """
    Relaxes cell and positions of a crystal without pressure, by ASE's `FrechetCellFilter` and L-BFGS.

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
    converged = bool(Descent(FrechetCellFilter(free)).run(fmax=fmax, steps=steps))
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


def can_batch(atoms: Atoms, calculator: ADAPTCalculator) -> bool:
    """torch-sim moves all atoms of crystals by one model, which reads them as they are, and knows no charges."""
    if not _torch_sim_is_here() or not atoms.pbc.all() or atoms.constraints:
        return False
    if getattr(calculator, "reads_charge", False) or charge_of(atoms):
        return False
    if calculator.domain is not None and calculator.domain.alignment is not None:
        return False
    # A batch brings nothing there; its graph would be made beside that of the last structure that is left.
    if calculator.device.type == "cpu" and (calculator.compiled or len(atoms) > BATCHED_ON_CPU):
        return False
    return len(calculator.models) == 1 and calculator.num_images == 1 and calculator.energy_model is None


def _torch_sim_is_here() -> bool:
    """The extra [batch]; a release before 0.6, the last for Python 3.11, has another interface."""
    try:
        return tuple(map(int, version("torch-sim-atomistic").split(".")[:2])) >= (0, 6)
    except PackageNotFoundError:
        return False


class Descent(LBFGS):
    """
    ASE's L-BFGS, which learns how stiff the structure is and takes what is unstable for as stiff: by itself it goes to
    saddles and may gain energy, as from a defect in a place of high symmetry (see [`stiffness_of`]).
    """

    def __init__(self, atoms: Any) -> None:
        super().__init__(atoms, logfile=cast(Any, None), alpha=STIFFNESS, memory=MEMORY)
        self.unit = self.state.H0 * STIFFNESS

    def update(self, pos: np.ndarray, forces: np.ndarray, r0: np.ndarray | None, f0: np.ndarray | None) -> None:
        with np.errstate(divide="ignore"):  # where nothing moved
            super().update(pos, forces, r0, f0)
        known = self.state
        if known.s:
            known.y[-1], stiffness = stiffness_of(known.s[-1], known.y[-1])
            known.rho[-1] = 1 / max(_SMALL, known.y[-1] @ known.s[-1])
            known.H0 = self.unit / stiffness


def stiffness_of(steps: Any, changes: Any) -> tuple[Any, Any]:
    """
    What a step tells L-BFGS: the Hessian times the step, its curvature along the step taken as positive, and the
    stiffness that the next one begins with, y·y / s·y (Nocedal and Wright, Numerical Optimization, eq. 7.20).

    With the absolute curvature a step leads away from a saddle, not to it, as in ASE's BFGS and the saddle-free Newton
    method (Dauphin et al., arXiv:1406.2572).

    Args:
        steps (`np.ndarray` or `torch.Tensor` of shape `(..., n)`): In Å.
        changes (`np.ndarray` or `torch.Tensor` of shape `(..., n)`): Of the gradient of the energy, in eV/Å.

    Returns:
        `tuple`: Changes (..., n) in eV/Å, and stiffnesses (...) in eV/Å².
    """
    squares, gains = (steps * steps).sum(-1), (steps * changes).sum(-1)
    unstable = (-gains / squares.clip(_SMALL, None)).clip(0, None)
    changes = changes + 2 * unstable[..., None] * steps
    gains = (steps * changes).sum(-1).clip(_SMALL, None)
    return changes, ((changes * changes).sum(-1) / gains).clip(*_STIFFNESSES)


class RelaxationWatch:
    """
    Sees every step of a relaxation, whoever takes them: writes it, compares it with the trained region, and says when
    to stop and what it came to. Arguments as in [`relax`].
    """

    def __init__(
        self,
        start: Atoms,
        fmax: float,
        domain: TrainingDomain | None = None,
        trajectory: str | Path | None = None,
        on_step: Callable[[int, float], None] | None = None,
        steps: int = 500,
        finish: float | None = None,
    ) -> None:
        self.start, self.fmax, self.domain = start.copy(), fmax, domain
        self.trajectory = None if trajectory is None else TrajectoryFile(trajectory)
        self.on_step = on_step
        self.finish = fmax if finish is None else min(fmax, finish)
        self.most_steps, self.last_step = steps, steps
        self.steps, self.largest_force = -1, np.inf
        self.findings: dict[str, str] = {}
        self.first = self.frame = start

    def see(self, positions: np.ndarray, forces: np.ndarray, energy: float | None = None) -> bool:
        """
        The next step, the start being the first: positions (N, 3) in Å, forces (N, 3) in eV/Å, energy in eV.

        Returns:
            `bool`: Whether the relaxation is to end: it is finished, has no steps left, or further ones would only add
            to the damage.
        """
        self.steps += 1
        self.frame = _frame(self.start, positions, forces, energy)
        if self.steps == 0:
            self.first = self.frame
        if self.trajectory is not None:
            self.trajectory.write(self.frame)
        free = self.frame.get_forces() if self.start.constraints else forces  # asking ASE takes as long as all else
        self.largest_force = float(np.linalg.norm(free, axis=1).max())
        if self.on_step is not None:
            self.on_step(self.steps, self.largest_force)
        for kind, line in _findings(self.frame, self.start, forces, self.domain).items():
            self.findings.setdefault(kind, f"step {self.steps}: {line}")
        if self.converged and self.last_step == self.most_steps:
            self.last_step += self.steps
        over = self.largest_force < self.finish or self.steps >= self.last_step
        return over or bool(FATAL_FINDINGS & self.findings.keys())

    @property
    def converged(self) -> bool:
        return self.largest_force < self.fmax

    def result(self, forces_std: np.ndarray | None = None) -> RelaxationResult:
        """What the steps so far came to; `forces_std` (N,) is the spread of the last forces in eV/Å, if known."""
        if forces_std is not None:
            self.frame.set_array("forces_std", forces_std)
        has_energy = "energy" in self.frame.calc.results
        change = self.frame.get_potential_energy() - self.first.get_potential_energy() if has_energy else None
        status: Status = "converged" if self.converged else "not converged"
        return RelaxationResult(
            atoms=self.frame,
            status="left the trained region" if self.findings else status,
            steps=self.steps,
            fmax=self.largest_force,
            largest_displacement=largest_displacement(self.start, self.frame),
            delta_q=delta_q(self.start, self.frame),
            displaced_atoms=int((np.linalg.norm(displacements(self.start, self.frame), axis=1) > DISPLACED).sum()),
            energy_change=change,
            findings=tuple(self.findings.values()),
            forces_std=None if forces_std is None else float(forces_std.max()),
        )


def _frame(start: Atoms, positions: np.ndarray, forces: np.ndarray, energy: float | None) -> Atoms:
    """The structure with its results frozen, without labels of the file it came from, which no longer hold."""
    frame = Atoms(start.numbers, positions, cell=start.cell, pbc=start.pbc, constraint=start.constraints)
    frame.info = {name: start.info[name] for name in ("charge",) if name in start.info}  # what a model may read
    results: dict[str, Any] = {"forces": forces} | ({} if energy is None else {"energy": energy})
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def _findings(frame: Atoms, start: Atoms, forces: np.ndarray, domain: TrainingDomain | None) -> dict[str, str]:
    finite = np.isfinite(forces).all(axis=1)
    if not finite.all():
        atom = int(np.argmin(finite))
        return {"not finite": f"the force on {frame.symbols[atom]} (atom {atom}) is not finite"}
    return {} if domain is None else domain.findings(frame, start, forces)
