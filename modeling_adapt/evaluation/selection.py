"""
Of many candidates those whose DFT labels would teach a model most: the next step of active learning.

What forces say of the weights of the last layer is known before they are computed (see `rigidity.py`). With labels of
a candidate the covariance S of these weights shrinks, and with it their entropy, by ln det(1 + R S Rᵀ / σ²) / 2, where
R are the derivatives of the features along random directions and σ is how well the model fits its forces, which is
proportional to the doubt of its atoms (with one σ for all the hottest cells are taken and little else). Candidates are
taken one after the other, each for what those before it leave to be learned. So two that are alike are not both taken
(D-optimal design; the entropy is submodular, and this greedy choice is within 1 - 1/e of the best one).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from tqdm import tqdm
from transformers import PreTrainedModel

from ..errors import InputError
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..simulation.doubt import Doubt
from ..simulation.prediction import input_dtype, structure_of
from .rigidity import directional_derivative, random_direction

DIRECTIONS = 8  # of each candidate
LEAST_DOUBT = 0.2  # that of a calm crystal is less, but its labels are no more exact


@dataclass(frozen=True)
class Choice:
    """
    Args:
        name (`str`): Of the structure.
        gain (`float`): What its labels would teach beyond those chosen before it, in nats.
        doubt (`float`): The largest of its atoms, 1 being usual.
    """

    name: str
    gain: float
    doubt: float


def choose(
    candidates: Mapping[str, Atoms],
    number: int,
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    doubt: Doubt,
    progress: bool = True,
) -> list[Choice]:
    """
    At most `number` of the candidates, the most instructive first.

    Args:
        candidates (`Mapping[str, Atoms]`): By name.
        number (`int`): How many.
        model (`PreTrainedModel`): For energies.
        feature_extractor ([`ADAPTFeatureExtractor`]): Its own.
        doubt ([`Doubt`]): How far it is to be trusted.

    Raises:
        [`InputError`]: The calibration of the doubt had no forces; a candidate that the model cannot take.
    """
    if doubt.of_forces is None:
        raise InputError(
            "the uncertainty of this model was calibrated without forces; calibrate it on data with forces"
        )
    random = torch.Generator().manual_seed(0)
    rows, most = {}, {}
    for name, atoms in tqdm(candidates.items(), unit=" structures", disable=None if progress else True, leave=False):
        try:
            rows[name], features = _looked_at(atoms, model, feature_extractor, random)
        except ValueError as error:  # an element without a reference energy, a cell that is none
            raise InputError(f"{name}: {error}") from error
        doubts = doubt.of_atoms(features)
        rows[name] /= max(float(np.sqrt(np.mean(doubts**2))), LEAST_DOUBT)
        most[name] = float(doubts.max())
    found = most_instructive(rows, number, doubt.covariance, doubt.of_differences, doubt.of_forces)
    return [Choice(name, gain, most[name]) for name, gain in found]


def _looked_at(
    atoms: Atoms, model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor, random: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives (DIRECTIONS, D) of the features of a structure, whose squares add to those of all coordinates, and
    the features (N, D) of its atoms."""
    inputs = dict(feature_extractor([structure_of(atoms)], dtype=input_dtype(model)).to(model.device))
    with torch.no_grad():
        features = model(**inputs, compute_features=True).features
    changes = [directional_derivative(model, inputs, random_direction(inputs, random)) for _ in range(DIRECTIONS)]
    return torch.cat(changes).numpy() / DIRECTIONS**0.5, features[0].cpu().double().numpy()


def most_instructive(
    rows: Mapping[str, np.ndarray], number: int, covariance: np.ndarray, of_differences: float, noise: float
) -> list[tuple[str, float]]:
    """
    Names and gains, in the order in which they are chosen.

    Args:
        rows (`Mapping[str, np.ndarray]` of shape `(K, D)`):
            What each candidate's labels would say of the weights, in units of how badly the model fits it.
        covariance (`np.ndarray` of shape `(D, D)`): Of the weights, as long as nothing is chosen.
        of_differences (`float`): See [`Doubt`]; forces are differences of energies.
        noise (`float`): How badly the model fits what has a unit of 1.
    """
    covariance = covariance * of_differences**2 / noise**2
    gains = {name: np.inf for name in rows}
    chosen: list[tuple[str, float]] = []
    while gains and len(chosen) < number:
        # What a candidate can teach only shrinks: only the one that leads with an old gain is looked at again.
        best = max(gains, key=gains.__getitem__)
        del gains[best]
        gain = _gain(rows[best], covariance)
        if gain < max(gains.values(), default=0.0):
            gains[best] = gain
        else:
            chosen.append((best, gain))
            covariance = _after(rows[best], covariance)
    return chosen


def _gain(rows: np.ndarray, covariance: np.ndarray) -> float:
    return float(np.linalg.slogdet(np.eye(len(rows)) + rows @ covariance @ rows.T)[1] / 2)


def _after(rows: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The covariance of the weights once the labels are known (Woodbury's identity)."""
    across = covariance @ rows.T
    after = covariance - across @ np.linalg.solve(np.eye(len(rows)) + rows @ across, across.T)
    return (after + after.T) / 2


__all__ = ["Choice", "choose", "most_instructive"]
