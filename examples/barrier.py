"""How a vacancy of silicon moves: a nudged elastic band with a climbing image between two neighbouring sites."""

from ase.build import bulk

from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.neb import find_path, matched_end
from modeling_adapt.simulation.relaxation import relax


def main(images: int = 3, fmax: float = 0.05, steps: int = 200) -> float:
    """The barrier in eV. The same for files: `python neb.py before.cif after.cif --output barriers`."""
    calculator = ADAPTCalculator()
    crystal = bulk("Si", cubic=True, a=5.468).repeat(2)
    ends = []
    for site in (0, 1):
        vacancy = crystal.copy()
        del vacancy[site]
        vacancy.rattle(0.02, seed=site)
        ends.append(relax(vacancy, calculator, fmax=fmax, steps=steps).atoms)

    start = ends[0]
    end, _ = matched_end(start, ends[1])  # one atom has jumped, whatever the order of the files
    path = find_path(start, end, calculator, images=images, fmax=fmax, steps=steps)
    for number, energy in enumerate(path.energies):
        print(f"image {number}: {energy:+.3f} eV")
    print(f"barrier {path.barrier} eV, {path.status} after {path.steps} steps")
    for finding in path.findings:
        print(finding)
    return path.barrier.value


if __name__ == "__main__":
    main()
