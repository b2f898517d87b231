"""Means and standard deviations that a model normalises with; fitted on the training split only."""

from dataclasses import dataclass

import datasets
import numpy as np

from ...elements_adapt import DESCRIPTORS
from ...errors import InputError
from ..columns import flat_values, tables


@dataclass(frozen=True)
class DatasetStatistics:
    """Population statistics, in the units of the data.

    `feature_*`: the 12 token columns (x, y, z in Å, then nine descriptors) over atoms; `force_*`: three components in
    eV/Å over atoms; `energy_*`: eV over structures. Labels that no row carries have None.
    """

    feature_mean: list[float]
    feature_std: list[float]
    force_mean: list[float] | None
    force_std: list[float] | None
    energy_mean: float | None
    energy_std: float | None


class _Moments:
    """Mean and variance of columns, merged batch by batch (Chan et al. 1983), so that no large sums cancel."""

    def __init__(self, size: int):
        self.count, self.mean, self.squares = 0, np.zeros(size), np.zeros(size)

    def add(self, values: np.ndarray) -> None:
        if not len(values):
            return
        values = values.astype(np.float64)
        mean = values.mean(axis=0)
        shift, total = mean - self.mean, self.count + len(values)
        self.squares += ((values - mean) ** 2).sum(axis=0) + shift**2 * self.count * len(values) / total
        self.mean, self.count = self.mean + shift * len(values) / total, total

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.squares / self.count)


def fit_statistics(dataset: datasets.Dataset) -> DatasetStatistics:
    """Fits all statistics in one pass over the rows, in float64.

    Raises:
        InputError: if the data set is empty.
    """
    if len(dataset) == 0:
        raise InputError("statistics of an empty data set")
    positions, forces, energies = _Moments(3), _Moments(3), _Moments(1)
    elements = np.zeros(len(DESCRIPTORS), dtype=np.int64)
    for _, table in tables(dataset):
        elements += np.bincount(flat_values(table, "atomic_numbers"), minlength=len(elements))
        positions.add(flat_values(table, "positions").reshape(-1, 3))
        forces.add(flat_values(table, "forces").reshape(-1, 3))
        energies.add(table["energy"].drop_null().to_numpy()[:, None])

    # Descriptors depend on the element alone, so counting elements is enough.
    share = elements / elements.sum()
    descriptor_mean = share @ DESCRIPTORS
    descriptor_std = np.sqrt(share @ (DESCRIPTORS - descriptor_mean) ** 2)
    return DatasetStatistics(
        feature_mean=[*positions.mean.tolist(), *descriptor_mean.tolist()],
        feature_std=[*positions.std.tolist(), *descriptor_std.tolist()],
        force_mean=forces.mean.tolist() if forces.count else None,
        force_std=forces.std.tolist() if forces.count else None,
        energy_mean=float(energies.mean[0]) if energies.count else None,
        energy_std=float(energies.std[0]) if energies.count else None,
    )
