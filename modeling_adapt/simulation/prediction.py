"""Forces with a measure of doubt: the mean over images of a structure and over models, and how far these disagree.

A model that is not equivariant says something else about each symmetry image of a structure, and models that were
trained apart say something else where the data did not decide. The mean is better than one of them, the spread tells
where not to trust it: a lower bound, as all may be wrong together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from transformers import PreTrainedModel

from ..crystal.alignment import Aligner
from ..crystal.symmetry import OCTAHEDRAL_OPERATIONS, symmetry_image
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..modeling_adapt import forces_of
from ..neighbours_adapt import NeighbourList

IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class Prediction:
    """
    Args:
        forces (`np.ndarray` of shape `(N, 3)`): In eV/Å, float64; the mean.
        forces_std (`np.ndarray` of shape `(N,)`, *optional*):
            In eV/Å: root mean square distance of the members' forces from the mean. None of one member.
        energy (`float`, *optional*): In eV where the models give one.
        energy_std (`float`, *optional*): Its standard deviation in eV; None of one member.
        energies (`np.ndarray` of shape `(N,)`, *optional*): Of the atoms, in eV, where the models have them.
        stress (`np.ndarray` of shape `(3, 3)`, *optional*):
            In eV/Å³, where it was asked for and the structure is periodic in all three directions.
        features (`np.ndarray` of shape `(N, D)`, *optional*):
            Of the energies, where they were asked for, see [`ADAPTEnergyOutput`].
    """

    forces: np.ndarray
    forces_std: np.ndarray | None
    energy: float | None
    energy_std: float | None
    energies: np.ndarray | None = None
    stress: np.ndarray | None = None
    features: np.ndarray | None = None


def predict(
    models: Sequence[PreTrainedModel],
    feature_extractor: ADAPTFeatureExtractor,
    atoms: Atoms,
    num_images: int = 1,
    aligner: Aligner | None = None,
    stress: bool = False,
    features: bool = False,
    neighbours: NeighbourList | None = None,
) -> Prediction:
    """
    Each image is laid as the crystals of the first model's training lay, where that model knows it.

    Args:
        models (`Sequence[PreTrainedModel]`): Force models, or pooled energies, in evaluation mode on one device.
        num_images (`int`, defaults to `1`):
            How many of the 48 operations of Oh to average over; 1 is the structure as it is. A cubic cell is mapped
            onto itself, any other is turned along; a model with a trained alignment turns it back, so there the images
            agree.
        aligner ([`Aligner`], *optional*): Of that model; one that is kept follows a structure that moves.
        stress (`bool`, defaults to `False`): Whether to compute it, of models that have one.
        features (`bool`, defaults to `False`): Whether to return them, of pooled energies.
        neighbours ([`NeighbourList`], *optional*):
            With the cutoff of `feature_extractor`: follows a structure that moves, likewise. Of one image only.
    """
    structure = structure_of(atoms)
    operations = octahedral_operations(num_images)
    images = [structure, *(symmetry_image(structure, operation) for operation in operations[1:])]
    aligner = aligner or Aligner.of(models[0].config.training_domain)
    images, rotations = aligner(images)
    if neighbours is not None and num_images == 1:
        images = [{**images[0], "neighbours": neighbours}]
    # Operations act on rows from the right, so their transpose brings the forces back.
    back = rotations @ operations.transpose(0, 2, 1)
    forces, totals, energies, stresses, read = [], [], [], [], []
    stress = stress and bool(atoms.pbc.all())
    for model in models:
        for start in range(0, num_images, IMAGES_AT_ONCE):
            some = images[start : start + IMAGES_AT_ONCE]
            inputs = feature_extractor(some, dtype=input_dtype(model)).to(model.device)
            output = forces_of(model, compute_stress=stress, compute_features=features, **inputs)
            turned = output.forces.cpu().double().numpy()
            forces += [one @ operation for one, operation in zip(turned, back[start:], strict=False)]
            if (energy := getattr(output, "energy", None)) is not None:
                totals += energy.cpu().double().tolist()
            if (of_atoms := getattr(output, "energies", None)) is not None:
                energies += list(of_atoms.cpu().double().numpy())
            if features:
                read += list(output.features.cpu().double().numpy())
            if stress:
                turns = zip(output.stress.cpu().double().numpy(), back[start:], strict=False)
                stresses += [operation.T @ one @ operation for one, operation in turns]
    mean = np.mean(forces, axis=0)
    several = len(forces) > 1
    spread = np.sqrt(np.mean([np.square(one - mean).sum(axis=1) for one in forces], axis=0)) if several else None
    return Prediction(
        forces=mean,
        forces_std=spread,
        energy=float(np.mean(totals)) if totals else None,
        energy_std=float(np.std(totals)) if totals and several else None,
        energies=np.mean(energies, axis=0) if energies else None,
        stress=np.mean(stresses, axis=0) if stresses else None,
        features=np.mean(read, axis=0) if read else None,
    )


def input_dtype(model: PreTrainedModel) -> str:
    """Of what `model` reads: positions are never rounded to half precision, whatever its weights are."""
    return "float64" if model.dtype == torch.float64 else "float32"


def structure_of(atoms: Atoms) -> dict[str, Any]:
    """`atoms` as the mapping that [`ADAPTFeatureExtractor`] and [`Aligner`] take."""
    return {
        "atomic_numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "charge": atoms.info.get("charge"),
    }


def octahedral_operations(count: int) -> np.ndarray:
    """(`count`, 3, 3) of the 48 operations of Oh, evenly chosen, the identity first."""
    if not 1 <= count <= len(OCTAHEDRAL_OPERATIONS):
        raise ValueError(f"there are 1 to {len(OCTAHEDRAL_OPERATIONS)} symmetry images, not {count}")
    return OCTAHEDRAL_OPERATIONS[np.linspace(0, len(OCTAHEDRAL_OPERATIONS) - 1, count).round().astype(int)]
