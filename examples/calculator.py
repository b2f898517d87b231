"""The calculator in ASE: lattice constant, a vacancy relaxed, what it costs, and how sure the model is of that."""

from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from modeling_adapt.simulation.calculator import ADAPTCalculator


def main(cells: int = 2, fmax: float = 0.02, model: str = "adapt-si") -> float:
    """The formation energy of the vacancy in eV, in a supercell of `cells` cubic cells along each edge."""
    calculator = ADAPTCalculator.from_pretrained(model)  # a folder, or organisation/name on the Hub

    crystal = bulk("Si", cubic=True, a=5.43)
    crystal.calc = calculator
    FIRE(FrechetCellFilter(crystal), logfile=None).run(fmax=fmax)  # the cell of the model
    print(f"lattice constant {crystal.cell.lengths()[0]:.3f} Å, stress {abs(crystal.get_stress()).max():.4f} eV/Å³")

    vacancy = crystal.repeat(cells)
    atoms, per_atom = len(vacancy), crystal.get_potential_energy() / len(crystal)
    del vacancy[0]
    vacancy.rattle(0.05, seed=0)  # a vacancy on its site is a saddle
    vacancy.calc = calculator
    FIRE(vacancy, logfile=None).run(fmax=fmax, steps=300)

    formation = vacancy.get_potential_energy() - (atoms - 1) * per_atom
    results = calculator.results
    print(f"formation energy {formation:.2f} eV; the total energy is known to {results['energy_uncertainty']:.2f} eV")
    print(f"least usual atom: doubt {results['atom_doubt'].max():.2f} (above 1: unlike the training)")
    return formation


if __name__ == "__main__":
    main()
