"""Errors of forces and energies in physical units, exact for ragged batches of any size, beside trivial baselines.

Accumulators keep sums per structure in float64 and divide once, in `compute`, so how the structures were batched or
padded does not matter. An error is never read alone: predicting zero forces, or energies from the composition, costs
nothing, and a model has to beat it. Nor is a mean over all atoms, which hides the few that decide a relaxation.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa

from ..modeling_adapt import IGNORE_INDEX

NEAR_DEFECT_RADIUS = 5.0  # Å; atoms nearer than this to a defect site count as near the defect
SMALL_FORCE = 0.01  # eV/Å; below it the direction of a reference force is noise
SHELLS = {"0-3 Å": (0.0, 3.0), "3-5 Å": (3.0, 5.0), "5-8 Å": (5.0, 8.0), "8 Å and more": (8.0, np.inf)}
"""Distances to the nearest defect site, from the first to just below the second; bonds are within the first."""

Sums = dict[str, float]


class ForceMetrics:
    """
    Accumulates force errors. MAE, RMSE and the largest error are of Cartesian components, the cosine is over atoms
    whose reference force is above `SMALL_FORCE`; the norm ratio is the mean length of the predicted forces over that
    of the reference. The slope is that of the least-squares line through the origin of predicted on reference
    components, sum(p r) / sum(r r): below 1 the model is too soft (arXiv 2405.07105).

    Where the elements are given, the same by element and by distance to the nearest defect site (`SHELLS`).

    ```python
    >>> metrics = ForceMetrics()
    >>> metrics.update(forces, labels, nearest_defect, config_types)
    >>> metrics.compute()["force_mae_mev_per_ang"]
    ```
    """

    def __init__(self) -> None:
        self._config_types, self._elements, self._shells = (_Groups(_force_errors) for _ in range(3))

    def update(
        self,
        forces: Any,
        labels: Any,
        nearest_defect: Any | None = None,
        config_types: Sequence[str] | None = None,
        atomic_numbers: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            forces (`torch.Tensor` or `np.ndarray` of shape `(B, N, 3)`): Predicted forces in eV/Å.
            labels (`torch.Tensor` or `np.ndarray` of shape `(B, N, 3)`): Reference forces in eV/Å, -100 on padding.
            nearest_defect (`torch.Tensor` or `np.ndarray` of shape `(B, N)`, *optional*):
                Distance of each atom to the nearest defect site in Å, inf where none.
            config_types (`Sequence[str]` of shape `(B,)`, *optional*):
                The group of each structure in `by_config_type`.
            atomic_numbers (`np.ndarray` of shape `(B, N)`, *optional*):
                For the groups `by_element` and `by_defect_distance`.
        """
        forces, labels = as_float64(forces), as_float64(labels)
        known = labels != IGNORE_INDEX
        nearest = np.full(labels.shape[:2], np.inf) if nearest_defect is None else as_float64(nearest_defect)
        near = (nearest < NEAR_DEFECT_RADIUS)[..., None]
        self._config_types.add(_force_sums(forces, labels, known, near), config_types)
        if atomic_numbers is None:
            return
        for number in np.unique(atomic_numbers[known.all(axis=-1)]).tolist():
            atoms = known & (atomic_numbers == number)[..., None]
            self._elements.add(_force_sums(forces, labels, atoms, near), [number] * len(labels))
        for name, (least, below) in SHELLS.items():
            atoms = known & ((nearest >= least) & (nearest < below))[..., None]
            if atoms.any():
                self._shells.add(_force_sums(forces, labels, atoms), [name] * len(labels))

    def compute(self) -> dict[str, Any]:
        """Metrics over everything seen, and the same for each group; units are in the names."""
        found = self._config_types.compute()
        if elements := self._elements.each():
            found["by_element"] = {chemical_symbols[number]: group for number, group in elements.items()}
        if shells := self._shells.each():
            found["by_defect_distance"] = {name: shells[name] for name in SHELLS if name in shells}
        return found


def _force_sums(
    forces: np.ndarray, labels: np.ndarray, chosen: np.ndarray, near: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """
    Sums over the `chosen` components (B, N, 3) of each structure, (B,) each.

    Args:
        near (`np.ndarray` of shape `(B, N, 1)`, *optional*): Which atoms also count as near a defect.
    """
    error, reference = (np.where(chosen, one, 0.0) for one in (forces - labels, labels))
    predicted = reference + error
    sums = _component_sums(error, reference, chosen)
    sums["largest_error"] = np.abs(error).max(axis=(1, 2), initial=0.0)
    sums["predicted_times_reference"] = (reference * predicted).sum(axis=(1, 2))

    size, predicted_size = (np.linalg.norm(one, axis=-1) for one in (reference, predicted))
    atoms = chosen.all(axis=-1)
    directed = atoms & (size > SMALL_FORCE)
    product = size * predicted_size
    cosine = np.zeros_like(size)
    np.divide((reference * predicted).sum(axis=-1), product, where=directed & (product > 0), out=cosine)
    sums["cosine"], sums["directed"] = cosine.sum(axis=-1), directed.sum(axis=-1)
    sums["length"], sums["predicted_length"] = size.sum(axis=-1), predicted_size.sum(axis=-1)
    counts = atoms.sum(axis=-1)
    sums["structures"], sums["atoms"] = counts > 0, counts
    if near is not None:
        near_sums = _component_sums(np.where(near, error, 0.0), np.where(near, reference, 0.0), near & chosen)
        sums |= {f"near_{name}": value for name, value in near_sums.items()}
    return sums


def _component_sums(error: np.ndarray, reference: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Sums over the components of each structure, (B,) each; `error` and `reference` are zero where not chosen."""
    axes = (1, 2)
    return {
        "components": chosen.sum(axis=axes),
        "absolute_error": np.abs(error).sum(axis=axes),
        "squared_error": np.square(error).sum(axis=axes),
        "absolute_force": np.abs(reference).sum(axis=axes),
        "squared_force": np.square(reference).sum(axis=axes),
    }


def _force_errors(sums: Sums) -> dict[str, float]:
    components = sums["components"]
    metrics = {
        "force_mae_mev_per_ang": 1000 * _ratio(sums["absolute_error"], components),
        "force_rmse_mev_per_ang": 1000 * _ratio(sums["squared_error"], components) ** 0.5,
        "zero_force_mae_mev_per_ang": 1000 * _ratio(sums["absolute_force"], components),
        "zero_force_rmse_mev_per_ang": 1000 * _ratio(sums["squared_force"], components) ** 0.5,
        "force_max_error_mev_per_ang": 1000 * sums["largest_error"],
    }
    if squared := sums["squared_force"]:
        metrics["force_slope"] = sums["predicted_times_reference"] / squared
    if directed := sums["directed"]:
        metrics["force_cosine"] = sums["cosine"] / directed
    if length := sums["length"]:
        metrics["force_norm_ratio"] = sums["predicted_length"] / length
    if near := sums.get("near_components"):
        metrics["near_defect_mae_mev_per_ang"] = 1000 * sums["near_absolute_error"] / near
        metrics["zero_force_near_defect_mae_mev_per_ang"] = 1000 * sums["near_absolute_force"] / near
    return metrics | {"num_structures": int(sums["structures"]), "num_atoms": int(sums["atoms"])}


class EnergyMetrics:
    """Accumulates errors of total energies, per atom and per structure, beside baselines that see no geometry."""

    def __init__(self) -> None:
        self._groups = _Groups(_energy_errors)

    def update(
        self,
        energies: Any,
        labels: Any,
        num_atoms: Any,
        baseline: Any | None = None,
        config_types: Sequence[str] | None = None,
        mean_baseline: Any | None = None,
    ) -> None:
        """
        Args:
            energies (`torch.Tensor` or `np.ndarray` of shape `(B,)`): Predicted total energies in eV.
            labels (`torch.Tensor` or `np.ndarray` of shape `(B,)`):
                Reference energies in eV; NaN is of a structure whose energy is not known, which does not count.
            num_atoms (`torch.Tensor` or `np.ndarray` of shape `(B,)`): Number of atoms of each structure.
            baseline (`torch.Tensor` or `np.ndarray` of shape `(B,)`, *optional*):
                Energies in eV by [`CompositionBaseline`]; NaN (no prediction) does not count.
            config_types (`Sequence[str]` of shape `(B,)`, *optional*):
                The group of each structure in `by_config_type`.
            mean_baseline (`torch.Tensor` or `np.ndarray` of shape `(B,)`, *optional*):
                Energies in eV by [`MeanBaseline`].
        """
        labels, num_atoms = as_float64(labels), as_float64(num_atoms)
        error = as_float64(energies) - labels
        sums = {
            "structures": np.ones(len(labels)),
            "atoms": num_atoms,
            "error": np.abs(error),
            "error_per_atom": np.abs(error / num_atoms),
            "squared_error_per_atom": np.square(error / num_atoms),
        }
        for name, trivial in (("baseline", baseline), ("mean_baseline", mean_baseline)):
            if trivial is not None:
                trivial_error = np.abs(as_float64(trivial) - labels) / num_atoms
                sums[f"{name}_structures"] = np.isfinite(trivial_error)
                sums[f"{name}_error_per_atom"] = np.nan_to_num(trivial_error)
        known = np.flatnonzero(~np.isnan(labels))
        names = None if config_types is None else [config_types[row] for row in known.tolist()]
        self._groups.add({name: values[known] for name, values in sums.items()}, names)

    def compute(self) -> dict[str, Any]:
        """Metrics over everything seen, and under `by_config_type` the same for each group; units are in the names."""
        return self._groups.compute()


def _energy_errors(sums: Sums) -> dict[str, float]:
    structures = sums["structures"]
    metrics = {
        "energy_mae_mev_per_atom": 1000 * _ratio(sums["error_per_atom"], structures),
        "energy_rmse_mev_per_atom": 1000 * _ratio(sums["squared_error_per_atom"], structures) ** 0.5,
        "energy_mae_ev": _ratio(sums["error"], structures),
        "energy_mae_mev_per_structure": 1000 * _ratio(sums["error"], structures),
    }
    if count := sums.get("baseline_structures"):
        metrics["composition_baseline_mae_mev_per_atom"] = 1000 * sums["baseline_error_per_atom"] / count
    if count := sums.get("mean_baseline_structures"):
        metrics["mean_baseline_mae_mev_per_atom"] = 1000 * sums["mean_baseline_error_per_atom"] / count
    return metrics | {"num_structures": int(structures), "num_atoms": int(sums["atoms"])}


class StressMetrics:
    """
    Accumulates errors of the stress: of its nine components, of structures that have a label and are periodic in all
    three directions, beside that of predicting no stress.
    """

    def __init__(self) -> None:
        self._groups = _Groups(_stress_errors)

    @property
    def empty(self) -> bool:
        """Whether no structure had a label."""
        return not self._groups.total()["structures"]

    def update(self, stress: Any, labels: Any, config_types: Sequence[str] | None = None) -> None:
        """
        Args:
            stress (`torch.Tensor` or `np.ndarray` of shape `(B, 3, 3)`): Predicted, in eV/Å³; NaN where there is none.
            labels (`torch.Tensor` or `np.ndarray` of shape `(B, 3, 3)`): Reference in eV/Å³, -100 where there is none.
            config_types (`Sequence[str]` of shape `(B,)`, *optional*):
                The group of each structure in `by_config_type`.
        """
        stress, labels = as_float64(stress), as_float64(labels)
        known = (labels != IGNORE_INDEX).all(axis=(1, 2)) & np.isfinite(stress).all(axis=(1, 2))
        error, reference = (np.where(known[:, None, None], one, 0.0) / GPa for one in (stress - labels, labels))
        sums = {
            "structures": known,
            "components": 9 * known,
            "absolute_error": np.abs(error).sum(axis=(1, 2)),
            "squared_error": np.square(error).sum(axis=(1, 2)),
            "absolute_stress": np.abs(reference).sum(axis=(1, 2)),
            "pressure_error": np.abs(np.trace(error, axis1=1, axis2=2)) / 3,
        }
        self._groups.add(sums, config_types)

    def compute(self, by_config_type: bool = True) -> dict[str, Any]:
        """Metrics over everything seen, and the same for each group; units are in the names."""
        found = self._groups.compute()
        if not by_config_type:
            del found["by_config_type"]
        return found


def _stress_errors(sums: Sums) -> dict[str, float]:
    components, structures = sums["components"], sums["structures"]
    return {
        "stress_mae_gpa": _ratio(sums["absolute_error"], components),
        "stress_rmse_gpa": _ratio(sums["squared_error"], components) ** 0.5,
        "pressure_mae_gpa": _ratio(sums["pressure_error"], structures),
        "zero_stress_mae_gpa": _ratio(sums["absolute_stress"], components),
        "num_stresses": int(structures),
    }


class _Groups:
    """Sums by name of the group, turned into metrics by one function. Of what is called `largest_...`, the largest."""

    def __init__(self, metrics: Callable[[Sums], dict[str, float]]) -> None:
        self._metrics = metrics
        self._sums: dict[Any, Sums] = defaultdict(lambda: defaultdict(float))

    def add(self, sums: dict[str, np.ndarray], names: Sequence[Any] | None) -> None:
        for index in range(len(sums["structures"])):
            group = self._sums["" if names is None else names[index]]
            for key, values in sums.items():
                group[key] = _together(key, group[key], float(values[index]))

    def each(self) -> dict[Any, dict[str, float]]:
        """Metrics of each group."""
        return {name: self._metrics(group) for name, group in sorted(self._sums.items())}

    def compute(self) -> dict[str, Any]:
        """Metrics over all groups, and of each one under `by_config_type`."""
        if not self._sums:
            raise ValueError("no structures were added; there is nothing to compute")
        return self._metrics(self.total()) | {"by_config_type": self.each()}

    def total(self) -> Sums:
        """Over all groups."""
        total: Sums = defaultdict(float)
        for group in self._sums.values():
            for key, value in group.items():
                total[key] = _together(key, total[key], value)
        return total


def _together(key: str, one: float, other: float) -> float:
    return max(one, other) if key.startswith("largest") else one + other


def as_float64(values: Any) -> np.ndarray:
    """A float64 array of a tensor (of any dtype, on any device) or an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _ratio(total: float, count: float) -> float:
    return total / count if count else float("nan")
