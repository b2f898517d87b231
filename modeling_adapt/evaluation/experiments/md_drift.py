"""What happens to the energy in molecular dynamics with forces that are no gradient?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from tqdm import trange

from ...data.defects import SILICON_LATTICE_CONSTANT
from ...data.labelling import erhart_albe
from ...simulation.calculator import ADAPTCalculator
from .drawing import curves
from .experiment import LEARNS_FORCES, Experiment, Row, Training, Verdict
from .lab import Lab

MODEL, TIME, TOTAL, TEMPERATURE = "forces by", "time (ps)", "total energy (meV/atom)", "temperature (K)"
OWN = "its own energy (meV/atom)"
CONSERVATIVE = "pairwise energy and gradient"
MODELS = {
    "pairwise, direct forces": Training("pairwise-small"),
    CONSERVATIVE: Training("pairwise-energy", LEARNS_FORCES),
}
POTENTIAL = "the potential itself"
PICOSECONDS, STEP, SAMPLES, START = 1.0, 1.0, 20, 600.0  # ps, fs, number, K


class MDDrift(Experiment):
    name = "md-drift"
    title = "Molecular dynamics"
    question = "How does the energy drift at constant energy, with forces that are predicted and with a gradient?"
    paper = "the forces are no gradient of an energy; the model is for relaxation, not for dynamics"
    columns = {MODEL: "", TIME: ".1f", TOTAL: "+.3f", OWN: "+.3f", TEMPERATURE: ".0f"}
    minutes = 4
    about_silicon = True

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from MODELS.values()

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        calculators: dict[str, Calculator] = {
            name: ADAPTCalculator(lab.model(training)[0], outside_domain="ignore") for name, training in MODELS.items()
        }
        calculators[POTENTIAL] = erhart_albe()
        return [row for name, calculator in calculators.items() for row in _dynamics(name, calculator)]

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        series = {}
        for name in _names(rows):
            own = [row for row in rows if row[MODEL] == name]
            series[name] = [row[TIME] for row in own], [row[TOTAL] for row in own]
        curves(series, path, "time (ps)", "total energy (meV/atom)", logarithmic=False, floor=None)

    def reading(self, rows: Sequence[Row]) -> str:
        parts = [f"{drift(rows, name):+.3f} meV/atom/ps with {name}" for name in _names(rows)]
        own = drift(rows, CONSERVATIVE, OWN)
        return (
            f"In {PICOSECONDS:g} ps at constant energy (64 atoms, from {START:g} K, steps of {STEP:g} fs) the total "
            f"energy, its potential part by the potential that labelled the data, drifts by {', '.join(parts)}. Where "
            f"it is a gradient, the model's own energy drifts by {own:+.4f} meV/atom/ps. Energies are since the start."
        )

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        direct, gradient = (abs(drift(rows, name)) for name in MODELS)
        own = abs(drift(rows, CONSERVATIVE, OWN))
        text = (
            f"with direct forces the energy drifts by {direct:.3f} meV/atom/ps, with a gradient by {gradient:.3f} "
            f"({own:.4f} of its own energy)"
        )
        return ("reproduced" if direct > 3 * max(gradient, own) else "not reproduced"), text


def drift(rows: Sequence[Row], name: str, heading: str = TOTAL) -> float:
    """Slope of the energies in meV/atom/ps."""
    own = [row for row in rows if row[MODEL] == name]
    return float(np.polyfit([row[TIME] for row in own], [row[heading] for row in own], 1)[0])


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
    first: list[float] = []
    for sample in trange(SAMPLES + 1, desc=name, disable=None):
        if sample:
            dynamics.run(round(1000 * PICOSECONDS / STEP / SAMPLES))
        kinetic = atoms.get_kinetic_energy()
        energies = [kinetic + judge.get_potential_energy(atoms)]
        energies.append(kinetic + atoms.get_potential_energy() if has_energy else float("nan"))
        first = first or energies
        total, own = (1000 * (now - then) / len(atoms) for now, then in zip(energies, first, strict=True))
        rows.append(
            {
                MODEL: name,
                TIME: sample * PICOSECONDS / SAMPLES,
                TOTAL: total,
                OWN: own if has_energy else None,
                TEMPERATURE: atoms.get_temperature(),
            }
        )
    return rows
