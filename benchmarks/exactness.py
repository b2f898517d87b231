"""
How exactly a trained model keeps what physics says of its forces: the same under rotations and reflections, shifts
with wrapping, another order of the atoms, in a cell written twice, and no jump while an atom crosses half the cell.

    python benchmarks/exactness.py runs/silicon datasets/silicon --split validation
"""

import sys
from collections.abc import Callable

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation
from tqdm import tqdm, trange

from modeling_adapt.command_line import CommandParser, run_command, whole_number
from modeling_adapt.data.reading import read_split
from modeling_adapt.data.structures import atoms_from_row
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.tables import format_table

SCAN_STEP = 1e-3  # Å
CLOSER_LOOKS = 100


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, "example:\n  python benchmarks/exactness.py runs/silicon datasets/silicon")
    parser.add_argument("model", help="checkpoint")
    parser.add_argument("dataset", help="with structures that the model knows")
    parser.add_argument("--split", default="validation", help="(default %(default)s)")
    parser.add_argument("--structures", type=whole_number(1), default=5, help="evenly chosen (default %(default)s)")
    arguments = parser.parse_args(argv)
    calculator = ADAPTCalculator.from_pretrained(arguments.model, outside_domain="ignore")
    rows = read_split(arguments.dataset, arguments.split)
    chosen = np.linspace(0, len(rows) - 1, min(arguments.structures, len(rows))).round().astype(int)
    structures = [atoms_from_row(rows[int(row)]) for row in chosen]

    def forces(atoms: Atoms) -> np.ndarray:
        calculator.reset()
        return calculator.get_forces(atoms)

    errors: dict[str, list[tuple[float, float]]] = {name: [] for name in CHANGES}
    for number in trange(len(structures), desc="structures", disable=None):
        atoms, rng = structures[number], np.random.default_rng(number)
        before = forces(atoms)
        for name, change in CHANGES.items():
            changed, expected = change(atoms, before, rng)
            error = forces(changed) - expected
            relative = np.linalg.norm(error) / np.linalg.norm(expected)
            errors[name].append((float(np.abs(error).max()), float(relative)))
    table = [
        (name, f"{max(a for a, _ in pairs):.1e}", f"{max(r for _, r in pairs):.1e}") for name, pairs in errors.items()
    ]
    print(format_table((f"largest of {len(structures)} structures", "eV/Å", "relative (norms)"), table))
    jump = scan(structures[0], forces)
    print(f"an atom across half of the cell, in steps of {SCAN_STEP} Å or less: no jump above {jump:.1e} eV/Å")


def turned(atoms: Atoms, forces: np.ndarray, rng: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    """By a random rotation, or a rotation and a reflection, of atoms and cell."""
    operation = Rotation.random(rng=rng).as_matrix() * rng.choice([-1, 1])
    moved = Atoms(atoms.numbers, atoms.positions @ operation, cell=atoms.cell.array @ operation, pbc=atoms.pbc)
    return moved, forces @ operation


def shifted(atoms: Atoms, forces: np.ndarray, rng: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    moved = atoms.copy()
    moved.positions += rng.uniform(-10, 10, 3)
    moved.wrap()
    return moved, forces


def reordered(atoms: Atoms, forces: np.ndarray, rng: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    order = rng.permutation(len(atoms))
    return atoms[order], forces[order]


def doubled(atoms: Atoms, forces: np.ndarray, rng: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    return atoms * (2, 1, 1), np.concatenate([forces, forces])


CHANGES: dict[str, Callable[[Atoms, np.ndarray, np.random.Generator], tuple[Atoms, np.ndarray]]] = {
    "rotation, reflection": turned,
    "shift and wrapping": shifted,
    "order of the atoms": reordered,
    "cell written twice": doubled,
}


def scan(atoms: Atoms, forces: Callable[[Atoms], np.ndarray]) -> float:
    """
    Moves the first atom by half a cell vector.

    Returns:
        The largest jump of any force component in eV/Å: the second difference from step to step, in which a jump shows
        whole, a slope not at all, and a curvature of c eV/Å^3 as c times the step squared. At the places where it is
        largest, `CLOSER_LOOKS` of them, the steps are a tenth as long.
    """
    direction = atoms.cell.array[0] / np.linalg.norm(atoms.cell.array[0])
    length = np.linalg.norm(atoms.cell.array[0]) / 2

    def second_differences(offsets: np.ndarray, label: str) -> np.ndarray:
        moved, series = atoms.copy(), []
        for offset in tqdm(offsets, label, disable=None, leave=False):
            moved.positions[0] = atoms.positions[0] + offset * direction
            series.append(forces(moved))
        return np.abs(np.diff(series, n=2, axis=0)).max(axis=(1, 2))

    offsets = np.arange(0, length, SCAN_STEP)
    jumps = second_differences(offsets, "scan")
    worst = offsets[1:-1][np.argsort(jumps)[-CLOSER_LOOKS:]]
    rest = np.sort(jumps)[:-CLOSER_LOOKS]
    fine = SCAN_STEP * np.linspace(-1, 1, 21)
    return float(max([rest.max(), *(second_differences(place + fine, "closer look").max() for place in worst)]))


if __name__ == "__main__":
    sys.exit(run_command(main))
