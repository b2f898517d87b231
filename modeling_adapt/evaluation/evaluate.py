"""From a model and a data set to metrics and the arrays behind the plots."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import datasets
import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from ase.units import GPa
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel

from ..crystal.trained_region import TrainingDomain
from ..data.columns import describe_row, list_column, tables
from ..data.load.batching import StructureCollator, StructureDataset
from ..errors import InputError
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..modeling_adapt import IGNORE_INDEX, forces_of
from ..reference_energies import CompositionBaseline, MeanBaseline, compositions
from .metrics import EnergyMetrics, ForceMetrics, StressMetrics, as_float64


@dataclass(frozen=True)
class PredictedBatch:
    """A batch, and what the model says about it.

    Args:
        values (`np.ndarray`): Forces (B, N, 3) in eV/Å, energies (B,) in eV or stresses (B, 3, 3) in eV/Å³, float64.
        batch (`dict[str, torch.Tensor]`): The tensors of the batch, `labels` among them.
        config_types (`list[str]`): Group of each structure.
    """

    values: np.ndarray
    batch: dict[str, torch.Tensor]
    config_types: list[str]


@dataclass(frozen=True)
class Evaluation:
    """
    Args:
        metrics (`dict[str, Any]`): Plain JSON; see [`ForceMetrics`], [`EnergyMetrics`] and [`StressMetrics`].
        predicted, reference (`np.ndarray`):
            Every force component in eV/Å, every energy per atom in eV, or every component of a stress in GPa, for a
            parity plot.
        nearest_defect (`np.ndarray`, *optional*):
            Of forces, the distance of each atom to the nearest defect site in Å, inf where none is known.
    """

    metrics: dict[str, Any]
    predicted: np.ndarray
    reference: np.ndarray
    nearest_defect: np.ndarray | None = None


def evaluate_forces(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    dataset: datasets.Dataset,
    batch_size: int = 16,
    progress: bool = True,
) -> Evaluation:
    """Force errors of `model` on every row of `dataset`, beside those of predicting zero forces."""
    metrics = ForceMetrics()
    predicted, reference, nearest_defect = [], [], []
    for one in predicted_batches(model, feature_extractor, dataset, "forces", batch_size, progress):
        labels = one.batch["labels"].numpy()
        near = one.batch["nearest_defect"].numpy()
        metrics.update(one.values, labels, near, one.config_types, one.batch["atomic_numbers"].numpy())
        known = labels != IGNORE_INDEX
        predicted.append(one.values[known].astype(np.float32))
        reference.append(labels[known])
        nearest_defect.append(near[known.all(axis=-1)])
    arrays = map(np.concatenate, (predicted, reference, nearest_defect))
    return Evaluation(metrics.compute(), *arrays)


def evaluate_energy(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    dataset: datasets.Dataset,
    batch_size: int = 16,
    progress: bool = True,
    baseline: CompositionBaseline | None = None,
    mean_baseline: MeanBaseline | None = None,
) -> Evaluation:
    """Energy errors of `model` on every row of `dataset`, beside those of the baselines (see [`fit_baseline`])."""
    metrics = EnergyMetrics()
    predicted, reference = [], []
    for one in predicted_batches(model, feature_extractor, dataset, "energy", batch_size, progress):
        labels = one.batch["labels"].numpy()
        counts = compositions(one.batch["atomic_numbers"])
        num_atoms = counts.sum(axis=1)
        trivial = None if baseline is None else baseline.predict(counts)
        mean = None if mean_baseline is None else mean_baseline.predict(num_atoms)
        metrics.update(one.values, labels, num_atoms, trivial, one.config_types, mean)
        predicted.append(one.values / num_atoms)
        reference.append(labels / num_atoms)
    return Evaluation(metrics.compute(), np.concatenate(predicted), np.concatenate(reference))


def evaluate_stress(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    dataset: datasets.Dataset,
    batch_size: int = 16,
    progress: bool = True,
) -> Evaluation:
    """Errors of the stress of `model` on rows that have one each, beside those of predicting none."""
    metrics = StressMetrics()
    predicted, reference = [], []
    for one in predicted_batches(model, feature_extractor, dataset, "stress", batch_size, progress):
        labels = one.batch["labels"].numpy()
        metrics.update(one.values, labels, one.config_types)
        predicted.append(one.values.ravel() / GPa)
        reference.append(labels.ravel() / GPa)
    return Evaluation(metrics.compute(), np.concatenate(predicted), np.concatenate(reference))


def require_known_elements(model: PreTrainedModel, rows: datasets.Dataset, name: str) -> None:
    """
    Checks that the training of the model called `name` had every element of `rows`, where its checkpoint says.

    Raises:
        [`InputError`]: Naming the first row with another element.
    """
    if model.config.training_domain is None:
        return
    elements = TrainingDomain.from_dict(model.config.training_domain).elements
    known = [atomic_numbers[symbol] for symbol in elements if symbol in atomic_numbers]
    for start, table in tables(rows.select_columns("atomic_numbers")):
        for row, numbers in enumerate(list_column(table, "atomic_numbers"), start):
            assert numbers is not None  # a row without atoms is no valid row
            if len(others := np.flatnonzero(~np.isin(numbers, known))):
                where = describe_row(row, rows[row]["source"])
                raise InputError(
                    f"{where}: atom {others[0]} is {chemical_symbols[numbers[others[0]]]}, but "
                    f"{name} was trained on {', '.join(elements)} only; evaluate a model that knows the element"
                )


def predicted_batches(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    dataset: datasets.Dataset,
    target: Literal["forces", "energy", "stress"],
    batch_size: int = 16,
    progress: bool = True,
) -> Iterator[PredictedBatch]:
    """Predicts forces, total energies or stresses of the rows of `dataset`, in order, on the device of the model.

    Raises:
        [`InputError`]: The model cannot read a row, or its prediction is not finite; the message names the row.
    """
    collator = StructureCollator(feature_extractor, target)
    loader = DataLoader(StructureDataset(dataset), batch_size=batch_size, collate_fn=collator)
    with tqdm(
        total=len(dataset), unit=" structures", desc="predicting", disable=None if progress else True, leave=False
    ) as bar:
        first = 0
        for batch in loader:
            last = first + len(batch["labels"])
            names = [name for name in feature_extractor.model_input_names if name in batch]
            inputs = {name: batch[name].to(model.device) for name in names}
            try:
                with torch.no_grad():
                    # A stress comes with the gradient of which the forces are.
                    asks = target != "energy"
                    output = forces_of(model, target == "stress", **inputs) if asks else model(**inputs)
                values = as_float64(output[target])
            except ValueError as error:
                raise InputError(f"rows {first} to {last - 1}: {error}") from error
            _require_finite(values, batch["attention_mask"].numpy() if target == "forces" else None, dataset, first)
            yield PredictedBatch(values, batch, dataset[first:last]["config_type"])
            bar.update(last - first)
            first = last


def _require_finite(
    values: np.ndarray, attention_mask: np.ndarray | None, dataset: datasets.Dataset, first: int
) -> None:
    """Padding is not looked at: what a model says about atoms that are not there does not matter."""
    bad = ~np.isfinite(values)
    if attention_mask is not None:
        bad = bad.any(axis=-1) & (attention_mask == 1)
    rows = np.flatnonzero(bad.reshape(len(values), -1).any(axis=1))
    if len(rows):
        row = first + int(rows[0])
        raise InputError(f"{describe_row(row, dataset[row]['source'])}: the model predicts values that are not finite")
