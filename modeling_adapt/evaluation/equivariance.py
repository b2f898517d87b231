"""How far predictions are from following a symmetry operation: forces turn with the atoms, energies stay."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from transformers import PreTrainedModel

from ..data.augmentation import OCTAHEDRAL_OPERATIONS, is_cubic, wrapped
from ..data.loader import Structure
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..modeling_adapt import ADAPTForEnergy, gives_forces
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
    return _error(model, feature_extractor, structures, operations, turn_cell=True)


def _error(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    structures: Sequence[Structure],
    operations: np.ndarray,
    turn_cell: bool = False,
) -> float:
    before = _predict(model, feature_extractor, structures)
    squares, number = 0.0, 0
    for operation in operations:
        turned = []
        for structure in structures:
            positions = structure["positions"].astype(np.float64) @ operation
            if turn_cell:
                turned.append(structure | {"positions": positions, "cell": structure["cell"] @ operation})
            else:
                turned.append(structure | {"positions": wrapped(positions, structure)})
        for values, expected in zip(_predict(model, feature_extractor, turned), before, strict=True):
            error = values - (expected @ operation if expected.ndim == 2 else expected)
            squares, number = squares + float(np.square(error).sum()), number + error.size
    return (squares / number) ** 0.5


def _predict(
    model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor, structures: Sequence[Structure]
) -> list[np.ndarray]:
    """Forces (N, 3) in eV/Å of each structure, or its energy per atom (1,) in eV."""
    keys = ("atomic_numbers", "positions", "cell", "pbc")
    batch = feature_extractor([{key: structure[key] for key in keys} for structure in structures])
    inputs: dict[str, Any] = {name: tensor.to(model.device) for name, tensor in batch.items()}
    if gives_forces(model) and isinstance(model, ADAPTForEnergy):
        inputs["compute_forces"] = True
    with torch.no_grad():
        output = model(**inputs)
    counts = [len(structure["atomic_numbers"]) for structure in structures]
    if not gives_forces(model):
        return [np.array([energy / count]) for energy, count in zip(as_float64(output.energy), counts, strict=True)]
    return [forces[:count] for forces, count in zip(as_float64(output.forces), counts, strict=True)]
