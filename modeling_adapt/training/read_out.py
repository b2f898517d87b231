"""
The last layer of a trained energy model, solved anew.

While a model trains, forces have so much more to say that energies come to be a little wrong for all structures of a
kind, by some meV/atom, and formation energies are differences between kinds. An energy is linear in the weights of the
last layer, and so are its forces, so these weights can be fitted to both by least squares, in closed form and with as
much weight of the energies as they can have before forces suffer (of forces, random directions are looked at; see
`evaluation/rigidity.py`).
"""

from collections.abc import Collection, Sequence
from itertools import product
from typing import NamedTuple

import datasets
import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from ..configuration_adapt import ADAPTConfig
from ..errors import InputError
from ..evaluation.rigidity import (
    batches,
    directional_derivative,
    evenly_chosen,
    of_structures,
    random_direction,
)
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..modeling_adapt import forces_of

DIRECTIONS = 20  # of each structure
ENERGY_ERRORS = (2e-3, 1e-3, 5e-4, 2.5e-4)  # eV/atom: what is tried as the noise of energies
RIDGES = (1e-6, 1e-4)  # in units of the mean eigenvalue: how firmly the weights are held where they are
WORSE_FORCES = 1.005  # so much the error of the forces of a validation may grow


class Equations(NamedTuple):
    """
    What labels ask of a change of the last layer, in eV: `wanted` of its product with `features`. The rows of energies
    (S, D) are divided by the number of atoms, those of forces along random directions (C, D) by their length.
    """

    features: np.ndarray
    wanted: np.ndarray
    force_features: np.ndarray
    force_wanted: np.ndarray


class ReadOut(NamedTuple):
    """Mean errors on the validation, before and after: of energies in eV/atom, and of components of forces in eV/Å."""

    before: tuple[float, float]
    after: tuple[float, float]

    def __str__(self) -> str:
        energies, forces = (
            f"{1000 * before:.{digits}f} -> {1000 * after:.{digits}f} {unit}"
            for before, after, digits, unit in zip(self.before, self.after, (2, 1), ("meV/atom", "meV/Å"), strict=True)
        )
        return f"last layer solved anew: energy MAE {energies}, force MAE {forces}"


def require_read_out(config: ADAPTConfig, splits: Collection[str], training: TrainingArguments) -> None:
    """
    Before a training, that its last layer can be solved anew after it. Both splits have energies, as they were read
    for such a model.

    Raises:
        [`InputError`]: It cannot.
    """
    if not (config.predicts == "energy" and config.traits.has_gradient):
        reason = "it is for energy models that have a gradient"
    elif "validation" not in splits:
        reason = "the energies of a validation split choose the fit, and there is none"
    elif training.fsdp:
        reason = "it takes the whole model in each process, and fsdp divides it"
    else:
        return
    raise InputError(f"refit_read_out: {reason}; leave it out with --refit_read_out false")


def refit_read_out(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    train: datasets.Dataset,
    validation: datasets.Dataset,
    batch_size: int = 8,
) -> ReadOut:
    """
    Fits the last layer of `model`, in place, to energies and forces of `train`; how much energies count is what does
    best for those of `validation`, as long as its forces get no worse than by 0.5 %. Where nothing does better, the
    layer stays as it is.
    """
    training = model.training
    model.eval()
    validation = evenly_chosen(validation)
    seen = _equations(model, feature_extractor, evenly_chosen(train), batch_size)
    last = last_layer(model)
    best = before = _mean_errors(model, feature_extractor, validation, batch_size)
    kept = taken = [last.weight.detach().clone(), last.bias.detach().clone()]
    scale = float(model.energy_normalizer.scale(torch.float64))  # the layer speaks in units of it
    for prior in product(ENERGY_ERRORS, RIDGES):
        change = torch.from_numpy(_solved(seen, *prior) / scale).to(last.weight)
        tried = [kept[0] + change[None, :-1], kept[1] + change[-1:]]
        _put(last, tried)
        found = _mean_errors(model, feature_extractor, validation, batch_size)
        if found[0] < best[0] and not found[1] > WORSE_FORCES * before[1]:
            best, taken = found, tried
    _put(last, taken)
    model.train(training)
    return ReadOut(before, best)


def last_layer(model: PreTrainedModel) -> nn.Linear:
    """The layer of an energy model in whose weights its energies are linear."""
    *_, last = (module for module in model.energy_head.modules() if isinstance(module, nn.Linear))
    return last


@torch.no_grad()
def _put(layer: nn.Linear, weights: Sequence[torch.Tensor]) -> None:
    layer.weight.copy_(weights[0])
    layer.bias.copy_(weights[1])


def _mean_errors(
    model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor, rows: datasets.Dataset, batch_size: int
) -> tuple[float, float]:
    """Of energies in eV/atom and of components of forces in eV/Å; NaN where there are none."""
    energies, forces = [torch.zeros(0)], [torch.zeros(0)]
    for batch, inputs in batches(model, feature_extractor, rows, batch_size, progress=True, doing="looking"):
        output, is_atom = forces_of(model, **inputs), batch["attention_mask"].bool()
        errors = (output.energy.cpu().double() - batch["labels"]) / is_atom.sum(dim=1)
        energies.append(errors[errors.isfinite()].abs())
        if "reference_forces" in batch:
            forces.append((output.forces.cpu() - batch["reference_forces"])[is_atom].abs().flatten())
    return float(torch.cat(energies).mean()), float(torch.cat(forces).mean())


def _equations(
    model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor, rows: datasets.Dataset, batch_size: int
) -> Equations:
    random = torch.Generator().manual_seed(0)
    energies: list[torch.Tensor] = []
    forces: list[torch.Tensor] = []
    for batch, inputs in batches(model, feature_extractor, rows, batch_size, progress=True, doing="solving"):
        output = forces_of(model, compute_features=True, **inputs)
        features = of_structures(output.features, batch)
        atoms = batch["attention_mask"].sum(dim=1, keepdim=True).double()
        weights = batch.get("structure_weights", torch.ones(len(atoms))).double().sqrt()[:, None]
        missing = (batch["labels"] - output.energy.cpu().double())[:, None]
        known = missing.isfinite()[:, 0]
        energies.append((weights * torch.cat([features, missing], dim=1) / atoms)[known])
        if "reference_forces" in batch:
            error = output.forces - batch["reference_forces"].to(output.forces)
            for _ in range(DIRECTIONS):
                direction = random_direction(inputs, random)
                change = directional_derivative(model, inputs, direction)
                # An energy rises against its force.
                wanted = (error * direction).sum(dim=(1, 2)).cpu().double()[:, None]
                forces.append(weights * torch.cat([change, wanted], dim=1) / (3 * atoms).sqrt())
    of_energies = torch.cat(energies).numpy()
    of_forces = torch.cat(forces).numpy() if forces else np.zeros((0, of_energies.shape[1]))
    return Equations(of_energies[:, :-1], of_energies[:, -1], of_forces[:, :-1], of_forces[:, -1])


def _solved(seen: Equations, noise: float, ridge: float) -> np.ndarray:
    """The change (D,) of least squares: errors of energies are in units of `noise`, those of forces of their own."""
    force_noise = np.linalg.norm(seen.force_wanted) / max(1, len(seen.force_wanted)) ** 0.5 or 1.0
    rows = np.concatenate([seen.features / noise, seen.force_features / force_noise])
    wanted = np.concatenate([seen.wanted / noise, seen.force_wanted / force_noise])
    squares = rows.T @ rows
    held = ridge * np.trace(squares) / len(squares) * np.eye(len(squares))
    return np.linalg.solve(squares + held, rows.T @ wanted)


__all__ = ["ReadOut", "last_layer", "refit_read_out", "require_read_out"]
