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
from ..crystal.trained_region import TrainingDomain
from ..data.load.batching import StructureDataset
from ..data.structures import atoms_from_row
from ..device import on_device
from ..errors import InputError
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..simulation.prediction import predict
from ..tables import format_table
from .derivative_checks import jacobian_asymmetry, scan_jump
from .perfect_crystal import perfect_crystal
from .symmetry_checks import Forces, octahedral, reordered, repeated, rotated, shifted, symmetry_error

BULK_DISTANCE = 6.0  # Å from every defect site; atoms beyond are bulk
NEAREST_DEFECT = "nearest_defect"  # array of the structures: distance to the nearest defect site in Å, inf for none

# What each is called in words, and what it should be; those without a unit in their name are ratios.
CHECKS = {
    "net_force_per_atom_mev_per_ang": ("net force per atom", "0 (Newton's third law)"),
    "bulk_atom_force_mev_per_ang": (
        f"mean force on atoms beyond {BULK_DISTANCE:g} Å of a defect",
        "near 0, as in the reference",
    ),
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
        forces: function from a structure to its forces (N, 3) in eV/Å; better in float64.
        structures: at least one; distances to the defect, where known, are in their array `NEAREST_DEFECT`.
        host: the perfect crystal that the model was trained on the defects of.
        energy_gradient: forces in eV/Å as -dE/dR of the energy that goes with them.

    Returns:
        Those of `CHECKS` that apply, in meV/Å or as a ratio. All are root mean squares over structures but for
        `bulk_atom_force` and `energy_gradient_mae`, which are means, and `scan_jump`: the scan, which takes as long as
        all else on a structure, moves the atom nearest to a defect, of the first one.

    Raises:
        [`InputError`]: forces are not finite, or of another shape than (N, 3).
    """
    with tqdm(desc="checking", unit=" forces", disable=None if progress else True, leave=False) as bar:

        def counted(atoms: Atoms) -> np.ndarray:
            bar.update()
            return _finite(forces(atoms), atoms, "forces")

        predicted = [counted(atoms) for atoms in structures]
        found: dict[str, float | None]
        found = {"net_force_per_atom": _rms([np.linalg.norm(one.mean(axis=0)) for one in predicted])}
        found["bulk_atom_force"] = _bulk_force(predicted, structures)
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
    """At most `count` of `rows`, evenly, with their distances to the defect."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    structures, items = [], StructureDataset(rows)
    for row in chosen.tolist():
        atoms = atoms_from_row(rows[row])
        atoms.set_array(NEAREST_DEFECT, items[row]["nearest_defect"].astype(np.float64))
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
    What the networks say, in float64. One network alone sees structures as they are, not in the frame to which
    [`ADAPTCalculator`] brings them; of several, or of symmetry images, the mean is as in [`predict`].
    """
    exact = [on_device(model, model.device, "float64") for model in models]
    finder = Aligner(None) if len(exact) == num_images == 1 else None
    return lambda atoms: predict(exact, feature_extractor, atoms, num_images, finder).forces


def calculator_forces(calculator: Calculator) -> Forces:
    """Those of an ASE calculator, which forgets what it saw before."""

    def forces(atoms: Atoms) -> np.ndarray:
        calculator.reset()
        return calculator.get_forces(atoms)

    return forces


def _finite(found: np.ndarray, atoms: Atoms, what: str) -> np.ndarray:
    found = np.asarray(found, dtype=np.float64)
    if found.shape != (len(atoms), 3) or not np.isfinite(found).all():
        raise InputError(f"physical checks: {what} on {atoms.symbols} are not (atoms, 3) finite numbers")
    return found


def _rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _bulk_force(predicted: Sequence[np.ndarray], structures: Sequence[Atoms]) -> float | None:
    sizes = []
    for forces, atoms in zip(predicted, structures, strict=True):
        distances = atoms.arrays.get(NEAREST_DEFECT, np.full(len(atoms), np.inf))
        bulk = np.isfinite(distances) & (distances > BULK_DISTANCE)
        if bulk.any():
            sizes.append(np.linalg.norm(forces[bulk].mean(axis=0)))
    return float(np.mean(sizes)) if sizes else None


def _moving_atom(atoms: Atoms) -> int:
    return int(np.argmin(atoms.arrays.get(NEAREST_DEFECT, np.zeros(len(atoms)))))


__all__ = [
    *("CHECKS", "calculator_forces", "checks_table", "chosen_structures", "host_in", "model_forces"),
    "physical_checks",
]
