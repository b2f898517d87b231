"""
An energy model of one host begins with another as what it is: the same bonds, longer and softer.

Crystals of one kind differ in the length and the stiffness of their bonds first: stretched by 8 %, a model of silicon
tells to a tenth the forces far from defects in indium phosphide, before it has learned anything of that. Left alone it
sees silicon that was blown up by a quarter, and elements of which it has no notion.
"""

from typing import Any, NamedTuple

import datasets
import numpy as np
import torch

from ..configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from ..data.load.survey import survey
from ..elements_adapt import SYMBOLS, descriptors
from ..errors import InputError
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..modeling_adapt import ADAPTForEnergy, forces_of

FRAMES = 12  # that are looked at
_LEAST = 0.05  # of the stiffness: a model that is wrong about everything is not turned around


class CarriedOver(NamedTuple):
    """
    Args:
        stretch (`float`): By which lengths of the initial model are multiplied.
        stiffness (`float`): By which its energies are.
        stand_ins (`dict[str, str]`): The element as which each that it was not trained on begins.
    """

    stretch: float
    stiffness: float
    stand_ins: dict[str, str]

    def text(self, initial_model: str) -> str:
        """What is said of it before the training."""
        begin = "".join(f", {new} begins as {known}" for new, known in self.stand_ins.items())
        return f"{initial_model} carried over: lengths x {self.stretch:.2f}, energies x {self.stiffness:.2f}{begin}"


def fit_carried_over(
    initial: ADAPTForEnergy, feature_extractor: ADAPTFeatureExtractor, rows: datasets.Dataset
) -> CarriedOver:
    """
    The stretch with which the directions of the forces of `initial` agree best with those of `rows`, and the stiffness
    that makes them as long. Atoms count by their force there and, as a median is taken, at most once: near a defect
    that is none in `initial`'s host its forces can be ten times too long.

    Raises:
        [`InputError`]: No structure has forces.
    """
    found = _strongest(rows)
    if not found:
        raise InputError("carry_over compares forces, and no structure of the training split has any")
    stand_ins = _stand_ins(initial.config, survey(rows).elements)
    forces = np.concatenate([row["forces"] for row in found])
    length = np.linalg.norm(forces, axis=1)

    def compare(stretch: float) -> tuple[float, np.ndarray]:
        own = np.concatenate([_forces(initial, feature_extractor, row, stretch, stand_ins) for row in found])
        along, size = (own * forces).sum(axis=1), np.linalg.norm(own, axis=1) + 1e-9
        return float((along / size).sum() / length.sum()), along / size**2

    best = max(np.arange(0.8, 1.36, 0.05), key=lambda stretch: compare(stretch)[0])
    best = max(best + np.arange(-0.04, 0.045, 0.01), key=lambda stretch: compare(stretch)[0])
    ratios = compare(best)[1]
    stretch = round(float(best), 2)
    stiffness = max(stretch * _weighted_median(ratios, length), _LEAST)
    named = {SYMBOLS[new]: SYMBOLS[known] for new, known in stand_ins.items() if new != known}
    return CarriedOver(stretch, stiffness, named)


def carry_over(
    model: ADAPTForEnergy,
    initial: ADAPTForEnergy,
    fitted: CarriedOver,
    feature_extractor: ADAPTFeatureExtractor,
    rows: datasets.Dataset,
) -> None:
    """
    Changes the weights of `model`, which are those of `initial` behind other statistics and another cutoff, so that it
    says what `initial` says of structures smaller by the stretch, times the stiffness.
    """
    with torch.no_grad():
        _let_stand_in(model, initial, fitted.stand_ins)
        head: Any = model.energy_head
        read_out = head.layers[-1]
        scales = [one.energy_normalizer.scale(torch.float64).item() for one in (initial, model)]
        read_out.weight *= fitted.stiffness * scales[0] / scales[1]
        labelled = _some(survey(rows).labelled)
        left_over = [_energy_left_over(model, feature_extractor, rows[row]) for row in labelled]
        read_out.bias += float(np.median(left_over)) / scales[1]


def require_carried_over(config: ADAPTConfig) -> None:
    """Raises [`InputError`] for a model that cannot be."""
    if not isinstance(config, ADAPTEnergyConfig) or config.architecture != "pairwise":
        raise InputError("carry_over: the initial model must be an energy model of the architecture pairwise")


def _let_stand_in(model: ADAPTForEnergy, initial: ADAPTForEnergy, stand_ins: dict[str, str]) -> None:
    """The first layer, of least squares: each element gives what it gave to the initial model, or its stand-in did."""
    symbols = sorted(model.config.element_energies or {}, key=SYMBOLS.index)
    given = _of_elements(model, symbols)
    known = _of_elements(initial, [stand_ins.get(symbol, symbol) for symbol in symbols])
    theirs, ours = (_embeddings(one).layers[0] for one in (initial, model))
    wanted = known @ theirs.weight.double().T + theirs.bias.double()
    centre, middle = given.mean(dim=0), wanted.mean(dim=0)
    weight = torch.linalg.pinv(given - centre) @ (wanted - middle)
    ours.weight.copy_(weight.T)
    ours.bias.copy_(middle - centre @ weight)


def _embeddings(model: ADAPTForEnergy) -> Any:
    trunk: Any = model.adapt.trunk
    return trunk.embeddings


def _of_elements(model: ADAPTForEnergy, symbols: list[str]) -> torch.Tensor:
    """What the first layer reads of elements (elements, features)."""
    numbers = torch.tensor([SYMBOLS.index(symbol) for symbol in symbols])
    features = _embeddings(model).elements(torch.from_numpy(descriptors(numbers.numpy())), numbers)
    return torch.cat(features, dim=-1).double()


def _stand_ins(config: ADAPTConfig, numbers: np.ndarray) -> dict[int, int]:
    """The most similar element, by descriptors in units of their spread, of those that the model was trained on."""
    trained = (config.training_domain or {}).get("elements") or list(getattr(config, "element_energies", None) or {})
    known = [SYMBOLS.index(symbol) for symbol in trained]
    both = descriptors(np.array([*known, *numbers]))
    both = (both - both.mean(axis=0)) / (both.std(axis=0) + 1e-9)
    distances = np.linalg.norm(both[len(known) :, None] - both[None, : len(known)], axis=-1)
    nearest = [known[row] for row in distances.argmin(axis=1)]  # itself where it is known: at no distance
    return dict(zip(numbers.tolist(), nearest, strict=True))


def _strongest(rows: datasets.Dataset) -> list[dict[str, Any]]:
    """Some of the quarter with the largest forces, in which bonds are strained most."""
    some = [rows[row] for row in _some(np.arange(len(rows)), most=400)]
    some = [row for row in some if row["forces"] is not None and np.any(row["forces"])]
    some = sorted(some, key=lambda row: -np.abs(row["forces"]).mean())[: max(FRAMES, len(some) // 4)]
    return [some[index] for index in _some(np.arange(len(some)))]


def _some(indices: np.ndarray, most: int = FRAMES) -> list[int]:
    """At most so many of them, spread over the whole."""
    chosen = np.linspace(0, len(indices) - 1, min(most, len(indices))).astype(int)
    return indices[chosen].tolist()


def _forces(
    initial: ADAPTForEnergy,
    feature_extractor: ADAPTFeatureExtractor,
    row: dict[str, Any],
    stretch: float,
    stand_ins: dict[int, int],
) -> np.ndarray:
    """What `initial` says of a structure that is smaller by the stretch, in eV/Å (N, 3)."""
    smaller = {"atomic_numbers": [stand_ins[number] for number in row["atomic_numbers"]], "pbc": row["pbc"]}
    smaller |= {name: np.array(row[name]) / stretch for name in ("positions", "cell") if row[name] is not None}
    return forces_of(initial, **feature_extractor(smaller)).forces[0].double().numpy()


def _energy_left_over(model: ADAPTForEnergy, feature_extractor: ADAPTFeatureExtractor, row: dict[str, Any]) -> float:
    """By how much a label is above the energy of the model, in eV per atom."""
    names = ("atomic_numbers", "positions", "cell", "pbc")
    structure = {name: row[name] for name in names if row[name] is not None}
    energy = model(**feature_extractor(structure), compute_forces=False).energy.item()
    return (row["energy"] - energy) / len(row["atomic_numbers"])


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])
