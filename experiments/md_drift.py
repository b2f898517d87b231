"""What happens to the energy in molecular dynamics with forces that are no gradient?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from scipy.stats import linregress
from tqdm import trange

from modeling_adapt.data.defects.kinds import SILICON_LATTICE_CONSTANT
from modeling_adapt.data.defects.labelling import erhart_albe

from .experiment import LEARNS_FORCES, Experiment, Row, Training, Verdict
from .lab import Lab
from .shared import curves

MODEL, TIME, TOTAL, TEMPERATURE = "forces by", "time (ps)", "total energy (meV/atom)", "temperature (K)"
OWN = "its own energy (meV/atom)"
DIRECT, CONSERVATIVE = "pairwise, direct forces", "pairwise energy and gradient"
MODELS = {
    DIRECT: Training("pairwise-small"),
    CONSERVATIVE: Training("pairwise-energy", LEARNS_FORCES),
}
POTENTIAL = "the potential itself"
PICOSECONDS, STEP, START = 4.0, 1.0, 600.0  # ps, fs, K
BLOCKS, SAMPLES = 10, 40  # means of so many samples each, in which the fluctuations drown and a drift does not
SIGNIFICANT = 3.0  # standard errors


class MDDrift(Experiment):
    name = "md-drift"
    title = "Molecular dynamics"
    question = "How does the energy drift at constant energy, with forces that are predicted and with a gradient?"
    paper = "the forces are no gradient of an energy; the model is for relaxation, not for dynamics"
    columns = {MODEL: "", TIME: ".1f", TOTAL: "+.3f", OWN: "+.3f", TEMPERATURE: ".0f"}
    minutes = 6
    about_silicon = True

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from MODELS.values()

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        calculators: dict[str, Calculator] = {name: lab.calculator(training) for name, training in MODELS.items()}
        calculators[POTENTIAL] = erhart_albe()
        return [row for name, calculator in calculators.items() for row in _dynamics(name, calculator)]

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        series = {}
        for name in _names(rows):
            own = [row for row in rows if row[MODEL] == name]
            series[name] = [row[TIME] for row in own], [row[TOTAL] for row in own]
        said = f"n = 64 atoms; each point: mean over {1000 * PICOSECONDS / BLOCKS:g} fs, {SAMPLES} samples"
        curves({TOTAL: series}, path, TIME, log_scale=False, floor=None, said=said)

    def reading(self, rows: Sequence[Row]) -> str:
        parts = [f"{_shown(rows, name)} with {name}" for name in _names(rows)]
        return (
            f"In {PICOSECONDS:g} ps at constant energy (64 atoms, from {START:g} K, steps of {STEP:g} fs) the total "
            f"energy, its potential part by the potential that labelled the data, drifts by {', '.join(parts)}. Where "
            f"it is a gradient, the model's own energy drifts by {_shown(rows, CONSERVATIVE, OWN)}. Each row is the "
            f"mean over {1000 * PICOSECONDS / BLOCKS:g} fs, since the start; drifts are slopes with standard errors."
        )

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        (direct, error), (gradient, _) = (drift(rows, name) for name in MODELS)
        own, _ = drift(rows, CONSERVATIVE, OWN)
        seen = abs(direct) > SIGNIFICANT * error and abs(direct) > SIGNIFICANT * max(abs(gradient), abs(own))
        text = (
            f"with direct forces the energy drifts by {_shown(rows, DIRECT)}, with a gradient by "
            f"{_shown(rows, CONSERVATIVE)} and {_shown(rows, CONSERVATIVE, OWN)} of its own energy"
        )
        return ("reproduced" if seen else "not reproduced"), text


def drift(rows: Sequence[Row], name: str, heading: str = TOTAL) -> tuple[float, float]:
    """Slope of the energies and its standard error, in meV/atom/ps."""
    own = [row for row in rows if row[MODEL] == name]
    found = linregress([row[TIME] for row in own], [row[heading] for row in own])
    return float(found.slope), float(found.stderr)


def _shown(rows: Sequence[Row], name: str, heading: str = TOTAL) -> str:
    slope, error = drift(rows, name, heading)
    return f"{slope:+.3f} ± {error:.3f} meV/atom/ps"


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row[MODEL] for row in rows))


def _dynamics(name: str, calculator: Calculator) -> list[dict[str, Any]]:
    atoms, judge = bulk("Si", a=SILICON_LATTICE_CONSTANT, cubic=True) * 2, erhart_albe()
    atoms.calc = calculator
    # Half of the kinetic energy of a crystal that starts at its minimum becomes potential energy.
    thermalize_momenta(atoms, temperature_K=2 * START, rng=np.random.default_rng(0))
    Stationary(atoms)
    dynamics = VelocityVerlet(atoms, STEP * units.fs)
    has_energy = "energy" in calculator.implemented_properties
    rows: list[dict[str, Any]] = []
    start = _energies(atoms, judge, has_energy)
    for block in trange(BLOCKS, desc=name, disable=None):
        energies, temperatures = [], []
        for _ in range(SAMPLES):
            dynamics.run(round(1000 * PICOSECONDS / STEP / BLOCKS / SAMPLES))
            energies.append(_energies(atoms, judge, has_energy) - start)
            temperatures.append(atoms.get_temperature())
        total, own = (1000 * np.mean(energies, axis=0) / len(atoms)).tolist()
        rows.append(
            {
                MODEL: name,
                TIME: (block + 0.5) * PICOSECONDS / BLOCKS,
                TOTAL: total,
                OWN: own if has_energy else None,
                TEMPERATURE: float(np.mean(temperatures)),
            }
        )
    return rows


def _energies(atoms: Atoms, judge: Calculator, has_energy: bool) -> np.ndarray:
    """Kinetic energy with the potential one of the judge, and with that of the calculator itself, (2,) in eV."""
    own = atoms.get_potential_energy() if has_energy else np.nan
    return atoms.get_kinetic_energy() + np.array([judge.get_potential_energy(atoms), own])
