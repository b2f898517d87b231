"""
How well the data fix the last layer of an energy model, and whether what follows for energies is true of a validation
split: from a trained model to its [`Doubt`].

To its last layer the loss is one of linear regression. Its second derivative C by the weights w is a sum over the
training: of F Fᵀ of each structure, which tells what its energy says about w, and of the same with the derivatives of
F by each coordinate, which tell what its forces say, each with its weight in the loss. The sum over coordinates is
that over some random directions, in which F is differentiated by finite differences: two passes without a gradient.
The covariance of w is α² (C + ζ²)⁻¹, with the α and ζ that make the errors of a validation most likely: those of
energies, and those of forces along random directions, which are differences of energies and have an α of their own,
for what is wrong with all structures alike is in the energies alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm
from transformers import PreTrainedModel

from ..data.load.batching import StructureCollator, StructureDataset
from ..device import on_device
from ..errors import InputError
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..loading import load_model
from ..modeling_adapt import forces_of
from ..simulation.doubt import Doubt

DIRECTIONS = 3  # of each structure
STEP = 0.01  # Å, of all atoms at once; in float32 a smaller one is less exact
MOST_STRUCTURES = 2000  # of the training, evenly chosen; the others are taken to be like them
FEWEST_STRUCTURES = 10  # of a validation that tells anything
_RIDGES = 10.0 ** np.arange(-10, 2.5, 0.5)  # ζ² in units of the mean eigenvalue of C
_USUAL = 0.99  # of the atoms of the training


@dataclass(frozen=True)
class Observed:
    """
    Args:
        features (`np.ndarray` of shape `(S, D)`): Of structures: the sum of those of their atoms.
        errors (`np.ndarray` of shape `(S,)`): Of their energies in eV.
        atoms (`np.ndarray` of shape `(A, D)`): Features of all atoms.
        force_errors (`np.ndarray` of shape `(A,)`, *optional*): How long their errors are, in eV/Å.
        changes (`np.ndarray` of shape `(C, D)`, *optional*):
            How features of structures change, per Å, when all atoms move along a random direction.
        change_errors (`np.ndarray` of shape `(C,)`, *optional*): Of the changes of energies, by the forces, in eV/Å.
    """

    features: np.ndarray
    errors: np.ndarray
    atoms: np.ndarray
    force_errors: np.ndarray | None = None
    changes: np.ndarray | None = None
    change_errors: np.ndarray | None = None


@dataclass(frozen=True)
class DoubtCheck:
    """
    Whether doubt tells errors.

    Args:
        deviation, error (`np.ndarray` of shape `(S,)`): Of energies of structures, in eV.
        atom_doubt (`np.ndarray` of shape `(A,)`): Of all atoms, 1 being usual.
        force_error (`np.ndarray` of shape `(A,)`, *optional*): How long the errors of their forces are, in eV/Å.
        of_forces (`float`, *optional*): How long they are said to be for an atom of usual doubt.
        difference_deviation, difference_error (`np.ndarray` of shape `(S,)`):
            Of the energies of each structure and the next one, in eV.
    """

    deviation: np.ndarray
    error: np.ndarray
    atom_doubt: np.ndarray
    force_error: np.ndarray | None
    of_forces: float | None
    difference_deviation: np.ndarray
    difference_error: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Of energies in meV of structures, and rank correlations with errors; of few structures these are poor."""
        within = np.abs(self.error) <= 2 * self.deviation
        found = {
            "energy_uncertainty_rms_mev": 1000 * _rms(self.deviation),
            "energy_error_rms_mev": 1000 * _rms(self.error),
            "energy_errors_within_two_uncertainties": float(within.mean()),
            "energy_uncertainty_error_spearman": _ranked(self.deviation, np.abs(self.error)),
            "difference_uncertainty_rms_mev": 1000 * _rms(self.difference_deviation),
            "difference_error_rms_mev": 1000 * _rms(self.difference_error),
            "difference_errors_in_uncertainties": _rms(
                self.difference_error / np.maximum(self.difference_deviation, 1e-9)
            ),
        }
        if self.force_error is not None:
            found["atom_doubt_force_error_spearman"] = _ranked(self.atom_doubt, self.force_error)
            for name, half in zip(
                ("certain", "doubtful"), np.array_split(np.argsort(self.atom_doubt), 2), strict=True
            ):
                found[f"force_error_of_{name}_half_mev_per_ang"] = 1000 * _rms(self.force_error[half])
                if self.of_forces is not None:
                    said = self.of_forces * _rms(self.atom_doubt[half])
                    found[f"force_uncertainty_of_{name}_half_mev_per_ang"] = 1000 * said
        return found

    def summary(self) -> str:
        """The same as lines to print."""
        found = self.metrics()
        lines = [
            f"uncertainty of the energies: {found['energy_uncertainty_rms_mev']:.0f} meV, their error "
            f"{found['energy_error_rms_mev']:.0f} meV (root mean squares of structures), "
            f"{found['energy_errors_within_two_uncertainties']:.0%} of the errors within twice the uncertainty, rank "
            f"correlation {found['energy_uncertainty_error_spearman']:.2f}",
            f"of differences of energies: {found['difference_uncertainty_rms_mev']:.0f} meV, their error "
            f"{found['difference_error_rms_mev']:.0f} meV, {found['difference_errors_in_uncertainties']:.1f} times "
            "the uncertainty",
        ]
        if self.force_error is not None:
            lines.append(
                "doubt of the atoms and error of their forces: rank correlation "
                f"{found['atom_doubt_force_error_spearman']:.2f}; "
                + ", ".join(self._of_half(found, half) for half in ("certain", "doubtful"))
            )
        return "\n".join(lines)

    def _of_half(self, found: dict[str, float], half: str) -> str:
        error, said = (found.get(f"force_{what}_of_{half}_half_mev_per_ang") for what in ("error", "uncertainty"))
        return f"the more {half} half has errors of {error:.0f} meV/Å" + (f" ({said:.0f} expected)" if said else "")


def fit_doubt(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    train: datasets.Dataset,
    validation: datasets.Dataset,
    batch_size: int = 8,
    progress: bool = True,
    widened: float = 1.0,
) -> tuple[Doubt, DoubtCheck]:
    """
    The doubt of an energy model, from the structures it was trained on and from others with energies, and how it did
    on these, on which it was calibrated. `widened`: see [`Doubt`].

    Raises:
        [`InputError`]: The model has no energy that is a sum over atoms, or too few structures are given.
    """
    if not (model.config.predicts == "energy" and model.config.traits.has_gradient):
        raise InputError("uncertainties are of energy models that have a gradient")
    if len(validation) < FEWEST_STRUCTURES:
        raise InputError(f"{len(validation)} structures calibrate no uncertainty; it takes {FEWEST_STRUCTURES}")
    information, usual_atoms = _information(model, feature_extractor, train, batch_size, progress)
    seen = observe(model, feature_extractor, validation, batch_size, progress, DIRECTIONS)
    if len(seen.errors) < FEWEST_STRUCTURES:
        raise InputError(f"{len(seen.errors)} energies calibrate no uncertainty; it takes {FEWEST_STRUCTURES}")
    covariance, of_differences, ridge = most_likely_covariance(information, seen)
    doubt = Doubt(covariance, 1.0, of_differences, {}, widened=widened)
    doubt = replace(doubt, usual=float(np.quantile(doubt.deviation(usual_atoms), _USUAL)))
    check = _checked(doubt, seen)
    if seen.force_errors is not None:
        doubt = replace(doubt, of_forces=_rms(seen.force_errors / check.atom_doubt))
        check = replace(check, of_forces=doubt.of_forces)
    figures = {"ridge": ridge, "validation_structures": len(validation)} | check.metrics()
    return replace(doubt, figures=figures), check


def write_doubt(
    folder: str | Path,
    train: datasets.Dataset,
    validation: datasets.Dataset,
    device: torch.device,
    batch_size: int = 8,
    progress: bool = True,
    widened: float = 1.0,
) -> DoubtCheck:
    """[`fit_doubt`] for the model in `folder`, into which it is written."""
    model, feature_extractor = load_model(Path(folder))
    model = on_device(model, device)
    doubt, check = fit_doubt(model, feature_extractor, train, validation, batch_size, progress, widened)
    doubt.save(Path(folder))
    return check


def check_doubt(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    doubt: Doubt,
    rows: datasets.Dataset,
    batch_size: int = 8,
    progress: bool = True,
) -> DoubtCheck:
    """How the doubt of a model does on `rows`, which have energies."""
    return _checked(doubt, observe(model, feature_extractor, rows, batch_size, progress))


def most_likely_covariance(information: np.ndarray, seen: Observed) -> tuple[np.ndarray, float, float]:
    """
    α² (C + ζ²)⁻¹ with the α and ζ by which errors are most likely, if they are normal and independent.

    Args:
        information (`np.ndarray` of shape `(D, D)`): C.
        seen ([`Observed`]): Structures that C does not contain.

    Returns:
        `tuple[np.ndarray, float, float]`: The covariance (D, D) by the α of energies; the α of differences in units of
        that, but not less than 1; and ζ² in units of the mean eigenvalue of C.
    """
    values, vectors = np.linalg.eigh(information)
    values, mean = np.maximum(values, 0.0), values.mean()
    data = [((seen.features @ vectors) ** 2, seen.errors**2)]
    if seen.changes is not None and seen.change_errors is not None:
        data.append(((seen.changes @ vectors) ** 2, seen.change_errors**2))
    found = []
    for ridge in _RIDGES:
        shapes = [(squares / (values + ridge * mean)).sum(axis=1) for squares, _ in data]
        scales = [np.mean(errors / shape) for shape, (_, errors) in zip(shapes, data, strict=True)]  # the likeliest α²
        terms = [
            len(shape) * (np.log(shape).mean() + np.log(scale)) for shape, scale in zip(shapes, scales, strict=True)
        ]
        found.append((sum(terms), ridge, scales))
    _, ridge, scales = min(found)
    covariance = (vectors * (scales[0] / (values + ridge * mean))) @ vectors.T
    return covariance, float(np.sqrt(max(scales) / scales[0])), float(ridge)


def observe(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    rows: datasets.Dataset,
    batch_size: int = 8,
    progress: bool = True,
    directions: int = 0,
) -> Observed:
    """Features and errors of the energies, and of the forces where all have them; changes along so many directions."""
    features, errors, atoms, force_errors, changes, change_errors = [], [], [], [], [], []
    random = torch.Generator().manual_seed(1)
    for batch, inputs in batches(model, feature_extractor, rows, batch_size, progress):
        is_atom = inputs["attention_mask"].bool()
        output = forces_of(model, compute_features=True, **inputs)
        of_atoms = _masked(output.features, batch)
        known = batch["labels"].isfinite()
        features.append(of_atoms.sum(dim=1)[known])
        atoms.append(of_atoms[batch["attention_mask"].bool()])
        errors.append((output.energy.cpu().double() - batch["labels"])[known])
        if "reference_forces" in batch:
            error = (output.forces - batch["reference_forces"].to(output.forces)) * is_atom[..., None]
            force_errors.append(error[is_atom].norm(dim=-1).cpu().double())
            for _ in range(directions):
                direction = random_direction(inputs, random)
                changes.append(directional_derivative(model, inputs, direction))
                change_errors.append((error * direction).sum(dim=(1, 2)).cpu().double())
    of_energies = [torch.cat(part).numpy() for part in (features, errors, atoms)]
    all_have_forces = len(force_errors) == len(errors)
    of_forces = [
        torch.cat(part).numpy() if part and all_have_forces else None
        for part in (force_errors, changes, change_errors)
    ]
    found = Observed(*of_energies, *of_forces)
    if not np.isfinite(found.errors).all():
        raise InputError("the model predicts energies that are not finite")
    return found


def directional_derivative(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], direction: torch.Tensor
) -> torch.Tensor:
    """Derivative (B, D) of the features of structures, when atoms move along `direction` (B, N, 3), per Å."""
    step = torch.nn.functional.pad(STEP * direction, (0, inputs["input_features"].shape[-1] - 3))
    sides = []
    for sign in (1, -1):
        moved = inputs | {"input_features": inputs["input_features"] + sign * step}
        with torch.no_grad():
            features = model(**moved, compute_features=True).features
        sides.append(of_structures(features, inputs))
    return (sides[0] - sides[1]) / (2 * STEP)


def of_structures(features: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The features (B, D) of structures, from those of their atoms (B, N, D) as an energy model has them."""
    return _masked(features, batch).sum(dim=1)


def _masked(features: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Likewise those of atoms (B, N, D), 0 for padding, where float64 is."""
    return features.cpu().double() * batch["attention_mask"].cpu()[..., None]


def random_direction(inputs: dict[str, torch.Tensor], random: torch.Generator) -> torch.Tensor:
    """Where all atoms move to (B, N, 3): components of mean square 1, and 0 for padding."""
    is_atom = inputs["attention_mask"].bool()[..., None]
    tokens = inputs["input_features"]
    return torch.randn(*is_atom.shape[:2], 3, generator=random).to(tokens) * is_atom


def _information(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    train: datasets.Dataset,
    batch_size: int,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """C (D, D) of the whole training, and the features (A, D) of atoms in those structures that were looked at."""
    chosen = evenly_chosen(train)
    config, random = model.config, torch.Generator().manual_seed(0)
    scale = float(model.energy_normalizer.scale(torch.float64))
    force_scale = 1.0 if config.force_std is None else sum(config.force_std) / 3
    total, atoms = torch.zeros(()), []
    for batch, inputs in batches(model, feature_extractor, chosen, batch_size, progress):
        is_atom = batch["attention_mask"].bool()
        counts = is_atom.sum(dim=1).double()[:, None]
        with torch.no_grad():
            of_atoms = _masked(model(**inputs, compute_features=True).features, batch)
        atoms.append(of_atoms[is_atom].float())
        # The energy is `scale` times what the last layer says, and its error is divided by `scale` in the loss.
        learned = [of_atoms.sum(dim=1) / counts * batch["labels"].isfinite()[:, None]]
        if config.force_weight > 0 and "reference_forces" in batch:
            for _ in range(DIRECTIONS):
                weight = config.force_weight / (3 * counts) / DIRECTIONS
                change = directional_derivative(model, inputs, random_direction(inputs, random))
                learned.append(weight.sqrt() * change * (scale / force_scale))
        weights = batch.get("structure_weights", torch.ones(len(counts))).double().sqrt()[:, None]
        rows = torch.cat([weights * one for one in learned])
        total = total + rows.T @ rows
    return total.numpy() * (len(train) / len(chosen)), torch.cat(atoms).double().numpy()


def evenly_chosen(rows: datasets.Dataset) -> datasets.Dataset:
    """Of many structures so many as take minutes to look at."""
    if len(rows) <= MOST_STRUCTURES:
        return rows
    return rows.select(np.linspace(0, len(rows) - 1, MOST_STRUCTURES).round().astype(int))


def batches(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    rows: datasets.Dataset,
    batch_size: int,
    progress: bool,
    doing: str = "doubting",
) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    """Batches with labels, of forces where all have them, and what of them the model reads, on its device."""
    structures = StructureDataset(rows)
    collators: dict[bool, Any] = {
        False: StructureCollator(feature_extractor, "energy"),
        True: StructureCollator(feature_extractor, "energy_and_forces"),
    }
    with tqdm(total=len(rows), unit=" structures", desc=doing, disable=None if progress else True, leave=False) as bar:
        for start in range(0, len(rows), batch_size):
            items = structures.__getitems__(range(start, min(start + batch_size, len(rows))))
            batch = collators[all(item["forces"] is not None for item in items)](items)
            names = [name for name in feature_extractor.model_input_names if name in batch]
            yield batch, {name: batch[name].to(model.device) for name in names}
            bar.update(len(items))


def _checked(doubt: Doubt, seen: Observed) -> DoubtCheck:
    of_atoms = doubt.of_atoms(seen.atoms)
    differences = doubt.difference_deviation(seen.features - np.roll(seen.features, 1, axis=0))
    errors = seen.errors - np.roll(seen.errors, 1)
    of_structures = (doubt.deviation(seen.features), seen.errors)
    return DoubtCheck(*of_structures, of_atoms, seen.force_errors, doubt.of_forces, differences, errors)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _ranked(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation; 0 of values that do not differ."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


__all__ = [
    "DoubtCheck",
    "batches",
    "check_doubt",
    "directional_derivative",
    "evenly_chosen",
    "fit_doubt",
    "of_structures",
    "random_direction",
    "write_doubt",
]
