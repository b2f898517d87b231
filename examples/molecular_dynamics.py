"""Molecular dynamics in ASE: a vacancy of silicon at 600 K, first with a thermostat, then at constant energy."""

import numpy as np
from ase import units
from ase.build import bulk
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from modeling_adapt.simulation.calculator import ADAPTCalculator


def main(warm_up: int = 200, steps: int = 500, kelvin: float = 600.0) -> float:
    """The drift of the total energy in meV per atom and ps; near 0, as the forces are the gradient of an energy."""
    atoms = bulk("Si", cubic=True, a=5.468).repeat(2)
    del atoms[0]
    atoms.calc = ADAPTCalculator()
    thermalize_momenta(atoms, 2 * kelvin, rng=np.random.default_rng(0))  # half of it becomes potential energy
    step = 1.0 * units.fs
    Bussi(atoms, step, kelvin, taut=20 * units.fs, rng=np.random.default_rng(1)).run(warm_up)

    times: list[float] = []
    energies: list[float] = []

    def note() -> None:
        times.append(dynamics.get_time() / units.fs / 1000)  # ps
        energies.append(1000 * atoms.get_total_energy() / len(atoms))  # meV/atom

    dynamics = VelocityVerlet(atoms, step)
    dynamics.attach(note, interval=5)
    dynamics.run(steps)
    drift = np.polyfit(times, energies, 1)[0]
    doubt, swing = atoms.calc.results["atom_doubt"].max(), np.ptp(energies)
    print(f"{steps} fs at {atoms.get_temperature():.0f} K: total energy drifts by {drift:+.3f} meV per atom and ps")
    print(f"and swings by {swing:.3f} meV per atom; largest doubt of an atom {doubt:.1f}")
    return float(drift)


if __name__ == "__main__":
    main()
