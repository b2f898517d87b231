"""Means and standard deviations that a model normalises with; fitted on the training split only."""

from dataclasses import dataclass

import datasets
import numpy as np

from ..elements_adapt import DESCRIPTORS
from ..errors import InputError
from .columns import list_column

ROWS_PER_READ = 1000


@dataclass(frozen=True)
class DatasetStatistics:
    """Population statistics, in the units of the data.

    `feature_*`: the 12 token columns (x, y, z in Å, then nine descriptors) over atoms; `force_*`: three components in eV/Å over
    atoms; `energy_*`: eV over structures. Labels that no row carries have None.
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

    def results(self) -> tuple[list[float], list[float]] | tuple[None, None]:
        if not self.count:
            return None, None
        return self.mean.tolist(), np.sqrt(self.squares / self.count).tolist()


def fit_statistics(dataset: datasets.Dataset) -> DatasetStatistics:
    """Fits all statistics in one pass over the rows, in float64.

    Raises:
        InputError: if the data set is empty.
    """
    if len(dataset) == 0:
        raise InputError("statistics of an empty data set")
    rows = dataset.with_format("arrow")
    positions, forces, energies = _Moments(3), _Moments(3), _Moments(1)
    elements = np.zeros(len(DESCRIPTORS), dtype=np.int64)
    for start in range(0, len(rows), ROWS_PER_READ):
        table = rows[start : start + ROWS_PER_READ]
        elements += np.bincount(np.concatenate(list_column(table, "atomic_numbers")), minlength=len(elements))
        positions.add(np.concatenate(list_column(table, "positions")))
        labelled = [array for array in list_column(table, "forces") if array is not None]
        if labelled:
            forces.add(np.concatenate(labelled))
        energies.add(table["energy"].drop_null().to_numpy()[:, None])

    # Descriptors depend on the element alone, so counting elements is enough.
    share = elements / elements.sum()
    descriptor_mean = share @ DESCRIPTORS
    descriptor_std = np.sqrt(share @ (DESCRIPTORS - descriptor_mean) ** 2)
    position_mean, position_std = positions.results()
    force_mean, force_std = forces.results()
    energy_mean, energy_std = energies.results()
    return DatasetStatistics(
        feature_mean=[*position_mean, *descriptor_mean.tolist()],
        feature_std=[*position_std, *descriptor_std.tolist()],
        force_mean=force_mean,
        force_std=force_std,
        energy_mean=None if energy_mean is None else energy_mean[0],
        energy_std=None if energy_std is None else energy_std[0],
    )
