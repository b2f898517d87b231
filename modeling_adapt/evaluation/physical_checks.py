"""What physics demands of forces, measured on a few structures: small errors on a test set do not show it.

A model may have a low mean error and still push the whole crystal, turn with the axes, have no energy, or jump.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from tqdm import tqdm
from transformers import PreTrainedModel

from ..crystal.alignment import Aligner
from ..crystal.minimum_image import shortest_images
from ..crystal.trained_region import TrainingDomain
from ..data.load.batching import StructureDataset
from ..data.structures import atoms_from_row
from ..device import on_device
from ..errors import InputError
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..simulation.prediction import predict
from ..tables import format_table
from .symmetry import Forces, octahedral, perfect_crystal, reordered, repeated, rotated, shifted, symmetry_error

BULK_DISTANCE = 6.0  # Å from every defect site; atoms beyond are bulk
# Arrays of the structures: distance to the nearest defect site in Å, inf for none, and the forces to learn in eV/Å.
NEAREST_DEFECT, REFERENCE = "nearest_defect", "reference_forces"

# Of the finite differences, which any function of a structure allows; it should compute in float64.
STEP = 1e-3  # Å; of the central differences
DIRECTIONS = 24  # random ones; structures with no more coordinates than twice that are done exactly
REACH = 0.3  # Å; how far the scan goes to both sides
SCAN_STEP = 0.01  # Å
FINEST_STEP = 1e-5  # Å; over which smooth forces do not change by more than rounding
PLACES = 3  # of the scan that are looked at more closely

# What each is called in words, and what it should be; those without a unit in their name are ratios.
CHECKS = {
    "net_force_per_atom_mev_per_ang": ("net force per atom", "0 (Newton's third law)"),
    "bulk_atom_force_mev_per_ang": (
        f"mean force on atoms beyond {BULK_DISTANCE:g} Å of a defect",
        "that of the reference",
    ),
    "bulk_atom_reference_mev_per_ang": ("the same in the reference", "0 in a relaxed structure"),
    "bulk_atom_error_mev_per_ang": ("difference of these two", "0"),
    "perfect_crystal_force_mev_per_ang": ("forces in the perfect crystal", "0 (symmetry)"),
    "octahedral_error_mev_per_ang": ("error under the 47 operations of the cube", "0"),
    "rotation_error_mev_per_ang": ("error under rotations with the cell", "0"),
    "translation_error_mev_per_ang": ("error under a shift with wrapping", "0"),
    "permutation_error_mev_per_ang": ("error under another order of atoms", "0"),
    "supercell_error_mev_per_ang": ("error in a cell written twice", "0"),
    "jacobian_asymmetry": ("asymmetry of the Jacobian", "0 (forces have an energy)"),
    "energy_gradient_mae_mev_per_ang": ("difference from the gradient of the energy", "the errors of both"),
    "scan_jump_mev_per_ang": ("largest jump along a bond", "0"),
}
_IMAGES = {
    "octahedral_error": octahedral,
    "rotation_error": rotated,
    "translation_error": shifted,
    "permutation_error": reordered,
    "supercell_error": repeated,
}


def physical_checks(
    forces: Forces,
    structures: Sequence[Atoms],
    host: Atoms | None = None,
    energy_gradient: Forces | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """
    ```python
    >>> physical_checks(calculator_forces(calculator), [atoms])["net_force_per_atom_mev_per_ang"]
    ```

    Args:
        forces (`Forces`): Function from a structure to its forces (N, 3) in eV/Å; better in float64.
        structures (`Sequence[Atoms]`):
            At least one; distances to the defect, where known, are in their array `NEAREST_DEFECT`, and reference
            forces in `REFERENCE`.
        host (`Atoms`, *optional*): The perfect crystal that the model was trained on the defects of.
        energy_gradient (`Forces`, *optional*): Forces in eV/Å as -dE/dR of the energy that goes with them.

    Returns:
        `dict[str, float]`: Those of `CHECKS` that apply, in meV/Å or as a ratio. All are root mean squares over
        structures but for those of bulk atoms and `energy_gradient_mae`, which are means, and `scan_jump`: the scan,
        which takes as long as all else on a structure, moves the atom nearest to a defect, of the first one.

    Raises:
        [`InputError`]: Forces are not finite, or of another shape than (N, 3).
    """
    with tqdm(desc="checking", unit=" forces", disable=None if progress else True, leave=False) as bar:

        def counted(atoms: Atoms) -> np.ndarray:
            bar.update()
            return _finite(forces(atoms), atoms, "forces")

        predicted = [counted(atoms) for atoms in structures]
        found: dict[str, float | None]
        found = {"net_force_per_atom": _rms([np.linalg.norm(one.mean(axis=0)) for one in predicted])}
        found |= _bulk_forces(predicted, structures)
        found["perfect_crystal_force"] = None if host is None else _rms(counted(host))
        found |= {name: symmetry_error(counted, structures, images) for name, images in _IMAGES.items()}
        if energy_gradient is not None:
            gradients = [_finite(energy_gradient(atoms), atoms, "gradients of the energy") for atoms in structures]
            errors = np.concatenate(predicted) - np.concatenate(gradients)
            found["energy_gradient_mae"] = float(np.abs(errors).mean())
        found["scan_jump"] = scan_jump(counted, structures[0], _moving_atom(structures[0]))
        asymmetry = jacobian_asymmetry(counted, structures)
    checks = {f"{name}_mev_per_ang": 1000 * value for name, value in found.items() if value is not None}
    checks |= {} if asymmetry is None else {"jacobian_asymmetry": asymmetry}
    return {name: checks[name] for name in CHECKS if name in checks}


def checks_table(checks: dict[str, float]) -> str:
    """For the terminal, each beside what it should be."""
    lines = [
        (
            words,
            f"{float(format(checks[name], '.2g')):g}" + (" meV/Å" if name.endswith("_mev_per_ang") else ""),
            expected,
        )
        for name, (words, expected) in CHECKS.items()
        if name in checks
    ]
    return format_table(("check", "found", "should be"), lines)


def chosen_structures(rows: datasets.Dataset, count: int) -> list[Atoms]:
    """At most `count` of `rows`, evenly, with their distances to the defect and their forces."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    structures, items = [], StructureDataset(rows)
    for row in chosen.tolist():
        atoms, item = atoms_from_row(rows[row]), items[row]
        atoms.set_array(NEAREST_DEFECT, item["nearest_defect"].astype(np.float64))
        if item["forces"] is not None:
            atoms.set_array(REFERENCE, item["forces"].astype(np.float64))
        structures.append(atoms)
    return structures


def host_in(structures: Sequence[Atoms], training_domain: dict[str, Any] | None) -> Atoms | None:
    """
    The perfect crystal of the first structure that has one, where a model with that `training_domain` knows it: the
    number of its atoms is none of the training where every structure has a vacancy. None where there is none.
    """
    domain = None if training_domain is None else TrainingDomain.from_dict(training_domain)
    host = next((found for atoms in structures if (found := perfect_crystal(atoms)) is not None), None)
    if host is None or domain is None or set(domain.findings(host)) - {"number of atoms"}:
        return None
    return host


def model_forces(
    models: Sequence[PreTrainedModel], feature_extractor: ADAPTFeatureExtractor, num_images: int = 1
) -> Forces:
    """
    What the networks say, in float64. One network alone sees structures as they are, not as
    [`ADAPTCalculator`] aligns them; of several, or of symmetry images, the mean is as in [`predict`].
    """
    exact = [on_device(model, model.device, "float64") for model in models]
    aligner = Aligner(None) if len(exact) == num_images == 1 else None
    return lambda atoms: predict(exact, feature_extractor, atoms, num_images, aligner).forces


def calculator_forces(calculator: Calculator) -> Forces:
    """Those of an ASE calculator, which forgets what it saw before."""

    def forces(atoms: Atoms) -> np.ndarray:
        calculator.reset()
        return calculator.get_forces(atoms)

    return forces


def jacobian_asymmetry(forces: Forces, structures: Sequence[Atoms]) -> float | None:
    """
    |J - J^T| / |J + J^T| (Frobenius norms over all structures) of J = dF/dR: 0 where forces are the gradient of an
    energy, 1 for a J without relation to its transpose, and larger only where forces circulate.

    Central differences along directions w give J w, and products with the same directions v^T J w. For independent
    standard normal v and w, the mean of (v^T A w)^2 is |A|^2 (Hutchinson); K directions thus give K (K - 1) / 2
    samples for 2 K calls. With 24 of them the ratio is right to about 5 % of itself. Where there are few coordinates
    the directions are these, and the ratio is exact.

    Returns:
        `float` or `None`: None where no force changes at all.
    """
    rng = np.random.default_rng(0)
    difference, total = 0.0, 0.0
    for atoms in structures:
        size = 3 * len(atoms)
        exact = size <= 2 * DIRECTIONS
        directions = np.eye(size) if exact else rng.normal(size=(DIRECTIONS, size))
        products = np.array([_along(forces, atoms, one.reshape(-1, 3)) @ directions.T for one in directions])
        below = np.tri(len(products), k=-1)  # of a direction with itself, v^T J v says nothing of the asymmetry
        weight = np.ones_like(products) if exact else below / below.sum()
        difference += float((weight * np.square(products - products.T)).sum())
        total += float((weight * np.square(products + products.T)).sum())
    return (difference / total) ** 0.5 if total > 0 else None


def _along(forces: Forces, atoms: Atoms, direction: np.ndarray) -> np.ndarray:
    """(3 N,) in eV/Å^2: J times `direction` (N, 3)."""
    moved = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    sides = []
    for sign in (1, -1):
        moved.positions = atoms.positions + sign * STEP * direction
        sides.append(forces(moved).ravel())
    return (sides[0] - sides[1]) / (2 * STEP)


def scan_jump(forces: Forces, atoms: Atoms, index: int) -> float | None:
    """
    Largest jump of any force component in eV/Å while the atom `index` moves along the bond to its nearest neighbour,
    from 0.3 Å away from it to 0.3 Å towards it.

    Half the third difference shows a jump whole at the step that has it; of smooth forces it falls with the cube of
    the step, of a kink with the step itself. Where it is largest, the step is halved until only a jump is left.

    Returns:
        `float` or `None`: None for an atom without neighbour.
    """
    vectors = shortest_images(atoms.positions - atoms.positions[index], atoms.cell.array, atoms.pbc)
    distances = np.linalg.norm(vectors, axis=1)
    distances[index] = np.inf
    nearest = int(distances.argmin())
    if not np.isfinite(distances[nearest]):
        return None
    bond = vectors[nearest] / distances[nearest]
    moved = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)

    def at(offset: float) -> np.ndarray:
        moved.positions[index] = atoms.positions[index] + offset * bond
        return forces(moved)

    steps = round(REACH / SCAN_STEP)
    offsets = SCAN_STEP * np.arange(-steps, steps + 1)
    series = np.array([at(offset) for offset in offsets])
    jumps = np.abs(np.diff(series, n=3, axis=0)).max(axis=(1, 2)) / 2
    largest = 0.0
    for place in np.argsort(jumps)[-PLACES:]:
        low, step = float(offsets[place + 1]), SCAN_STEP
        before, after = series[place + 1], series[place + 2]
        jump = float(jumps[place])
        while step > FINEST_STEP:
            step /= 2
            middle = at(low + step)
            first = np.abs(after - 3 * middle + 3 * before - at(low - step)).max() / 2
            second = np.abs(at(low + 3 * step) - 3 * after + 3 * middle - before).max() / 2
            jump = float(max(first, second))
            if first >= second:
                after = middle
            else:
                low, before = low + step, middle
        largest = max(largest, jump)
    return largest


def _finite(found: np.ndarray, atoms: Atoms, what: str) -> np.ndarray:
    found = np.asarray(found, dtype=np.float64)
    if found.shape != (len(atoms), 3) or not np.isfinite(found).all():
        raise InputError(f"physical checks: {what} on {atoms.symbols} are not (atoms, 3) finite numbers")
    return found


def _rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _bulk_forces(predicted: Sequence[np.ndarray], structures: Sequence[Atoms]) -> dict[str, float | None]:
    """How long the mean force on the bulk atoms of a structure is, and that in the reference, where all have one."""
    found = {"bulk_atom_force": _bulk_force(predicted, structures)}
    if all(REFERENCE in atoms.arrays for atoms in structures):
        reference = [atoms.arrays[REFERENCE] for atoms in structures]
        errors = [ours - theirs for ours, theirs in zip(predicted, reference, strict=True)]
        found["bulk_atom_reference"] = _bulk_force(reference, structures)
        found["bulk_atom_error"] = _bulk_force(errors, structures)
    return found


def _bulk_force(forces: Sequence[np.ndarray], structures: Sequence[Atoms]) -> float | None:
    sizes = []
    for one, atoms in zip(forces, structures, strict=True):
        distances = atoms.arrays.get(NEAREST_DEFECT, np.full(len(atoms), np.inf))
        bulk = np.isfinite(distances) & (distances > BULK_DISTANCE)
        if bulk.any():
            sizes.append(np.linalg.norm(one[bulk].mean(axis=0)))
    return float(np.mean(sizes)) if sizes else None


def _moving_atom(atoms: Atoms) -> int:
    return int(np.argmin(atoms.arrays.get(NEAREST_DEFECT, np.zeros(len(atoms)))))
