"""
Energy drift of a model with conservative forces in molecular dynamics at constant energy: silicon, 64 atoms, 2 ps.

    python benchmarks/nve_drift.py runs/silicon
"""

import sys

import numpy as np
from ase import units
from ase.build import bulk
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from tqdm import trange

from modeling_adapt.cli.command_line import CommandParser, positive_number, run_command
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator

TIME_STEP = 1.0  # fs
STEPS_PER_SAMPLE = 10


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, "example:\n  python benchmarks/nve_drift.py runs/silicon --temperature 600")
    parser.add_argument("model", help="checkpoint of a pooled energy")
    parser.add_argument("--temperature", type=positive_number, default=600.0, help="in K (default 600)")
    parser.add_argument("--lattice-constant", type=positive_number, default=5.468, help="in Å (default 5.468, PBE)")
    parser.add_argument("--picoseconds", type=positive_number, default=2.0, help="length (default 2)")
    arguments = parser.parse_args(argv)

    calculator = ADAPTCalculator.from_pretrained(arguments.model)
    if not calculator.conservative:
        raise InputError(f"{arguments.model} predicts forces that are no gradient; energy cannot be conserved")
    atoms = bulk("Si", a=arguments.lattice_constant, cubic=True) * 2
    atoms.calc = calculator
    # Half of the kinetic energy of a crystal that starts at its minimum becomes potential energy.
    rng = np.random.default_rng(0)
    thermalize_momenta(atoms, temperature_K=2 * arguments.temperature, rng=rng)
    Stationary(atoms)
    dynamics = VelocityVerlet(atoms, TIME_STEP * units.fs)
    times, energies, temperatures = [], [], []
    for sample in trange(round(1000 * arguments.picoseconds / (TIME_STEP * STEPS_PER_SAMPLE)) + 1, disable=None):
        if sample:
            dynamics.run(STEPS_PER_SAMPLE)
        times.append(sample * STEPS_PER_SAMPLE * TIME_STEP / 1000)
        energies.append(1000 * atoms.get_total_energy() / len(atoms))
        temperatures.append(atoms.get_temperature())
    drift = np.polyfit(times, energies, 1)[0]
    print(f"{times[-1]:g} ps at {np.mean(temperatures[len(temperatures) // 4 :]):.0f} K, {len(atoms)} atoms")
    print(f"drift {drift:+.4f} meV/atom/ps, largest deviation {np.ptp(energies):.3f} meV/atom")


if __name__ == "__main__":
    sys.exit(run_command(main))
