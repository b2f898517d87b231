"""How far predictions are from following a symmetry operation: forces turn with the atoms, energies stay."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from transformers import PreTrainedModel

from ..crystal.symmetry import OCTAHEDRAL_OPERATIONS, is_cubic, symmetry_image
from ..data.load.batching import Structure
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..modeling_adapt import forces_of, gives_forces
from .metrics import as_float64


def octahedral_error(
    model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor, structures: Sequence[Structure], count: int = 47
) -> float | None:
    """
    RMS of F(S x) - S F(x) in eV/Å over atoms, components and `count` of the 47 operations of Oh besides the identity;
    of the energy per atom in eV for a model that gives no forces. The cell is mapped onto itself.

    Returns:
        None where a cell is no cube.
    """
    if not all(is_cubic(structure["cell"], structure["pbc"]) for structure in structures):
        return None
    operations = OCTAHEDRAL_OPERATIONS[np.linspace(1, 47, count).round().astype(int)]
    return _error(model, feature_extractor, structures, operations)


def rotation_error(
    model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor, structures: Sequence[Structure], count: int = 8
) -> float:
    """As [`octahedral_error`], for `count` random rotations (the same at every call) that turn the cell as well."""
    operations = Rotation.random(count, np.random.default_rng(0)).as_matrix()
    return _error(model, feature_extractor, structures, operations)


def _error(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    structures: Sequence[Structure],
    operations: np.ndarray,
) -> float:
    before = _predict(model, feature_extractor, structures)
    squares, number = 0.0, 0
    for operation in operations:
        turned = [symmetry_image(structure, operation) for structure in structures]
        for values, expected in zip(_predict(model, feature_extractor, turned), before, strict=True):
            error = values - (expected @ operation if expected.ndim == 2 else expected)
            squares, number = squares + float(np.square(error).sum()), number + error.size
    return (squares / number) ** 0.5


def _predict(
    model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor, structures: Sequence[Structure]
) -> list[np.ndarray]:
    """Forces (N, 3) in eV/Å of each structure, or its energy per atom (1,) in eV."""
    keys = ("atomic_numbers", "positions", "cell", "pbc")
    inputs = feature_extractor([{key: structure[key] for key in keys} for structure in structures]).to(model.device)
    counts = [len(structure["atomic_numbers"]) for structure in structures]
    if gives_forces(model):
        forces = as_float64(forces_of(model, **inputs).forces)
        return [one[:count] for one, count in zip(forces, counts, strict=True)]
    with torch.no_grad():
        energies = as_float64(model(**inputs).energy)
    return [np.array([energy / count]) for energy, count in zip(energies, counts, strict=True)]
