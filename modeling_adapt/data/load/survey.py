"""What one walk through a split tells that needs no geometry: statistics, composition, sizes, and a hash of it all."""

import hashlib
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import datasets
import numpy as np
import pyarrow as pa

from ...crystal.symmetry import is_cubic
from ...elements_adapt import DESCRIPTORS
from ...errors import InputError
from ..columns import describe_row, flat_values, list_lengths, tables

_HASHED = (
    "atomic_numbers",
    "positions",
    "forces",
    "importance_weights",
    "defect_sites",
)  # then cell, pbc, energy and stress
_FIXED = ("cell", "pbc")
_surveys: "WeakKeyDictionary[datasets.Dataset, Survey]" = WeakKeyDictionary()


@dataclass(frozen=True)
class DatasetStatistics:
    """Population statistics, in the units of the data, that a model normalises with; of the training split only.

    `feature_*`: the 12 token columns (x, y, z in Å, then nine descriptors) over atoms; `force_*`: three components in
    eV/Å over atoms; `energy_*`: eV over structures. Labels that no row carries have None.
    """

    feature_mean: list[float]
    feature_std: list[float]
    force_mean: list[float] | None
    force_std: list[float] | None
    energy_mean: float | None
    energy_std: float | None


@dataclass(frozen=True)
class Survey:
    """Of B rows; arrays are in the order of the rows.

    Args:
        content_hash (`str`):
            Short SHA-256 over structures, labels and weights of structures, in order: two runs that name the same one
            have learned from the same rows, wherever these are stored.
        elements (`np.ndarray` of shape `(E,)`): Atomic numbers that occur, sorted.
        counts (`np.ndarray` of shape `(B, E)`): Atoms of each of them.
        energies (`np.ndarray` of shape `(B,)`): In eV, NaN where there is none.
        cubic (`np.ndarray` of shape `(B,)`): Which cells are periodic cubes along x, y, z.
        defective (`np.ndarray` of shape `(B,)`): Which rows have a defect site.
        weighted (`np.ndarray` of shape `(B,)`): Which rows have published weights.
        stressed (`np.ndarray` of shape `(B,)`): Which rows have a stress, and are periodic in all three directions.
        statistics ([`DatasetStatistics`], *optional*): None of no rows.
    """

    content_hash: str
    elements: np.ndarray
    counts: np.ndarray
    energies: np.ndarray
    cubic: np.ndarray
    defective: np.ndarray
    weighted: np.ndarray
    stressed: np.ndarray
    statistics: DatasetStatistics | None

    @property
    def sizes(self) -> np.ndarray:
        """(B,) number of atoms."""
        return self.counts.sum(axis=1)

    @property
    def labelled(self) -> np.ndarray:
        """The rows that have an energy."""
        return np.flatnonzero(~np.isnan(self.energies))

    @property
    def compositions(self) -> np.ndarray:
        """(B, 119) atoms of each element by atomic number."""
        compositions = np.zeros((len(self.counts), 119), dtype=np.int64)
        compositions[:, self.elements] = self.counts
        return compositions


def survey(rows: datasets.Dataset) -> Survey:
    """The survey of rows of [`read_split`]. They never change, so what was found stays as long as they do."""
    if rows not in _surveys:
        _surveys[rows] = _Walk(rows).survey()
    return _surveys[rows]


def content_hash(rows: datasets.Dataset) -> str:
    """See [`Survey`]."""
    return survey(rows).content_hash


def fit_statistics(rows: datasets.Dataset) -> DatasetStatistics:
    """Statistics in float64.

    Raises:
        [`InputError`]: There are no rows.
    """
    statistics = survey(rows).statistics
    if statistics is None:
        raise InputError("statistics of an empty data set")
    return statistics


def require_cubic_cells(rows: datasets.Dataset) -> None:
    """Checks that the augmentation `octahedral` is a symmetry of every cell.

    Raises:
        [`InputError`]: Naming the first row that has another cell.
    """
    if (others := np.flatnonzero(~survey(rows).cubic)).size:
        row = int(others[0])
        raise InputError(
            f"{describe_row(row, rows[row]['source'])}: octahedral augmentation needs periodic cubic cells along "
            "x, y, z; use rotation and translation instead"
        )


class _Walk:
    """The one pass."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self._digest = hashlib.sha256(str(len(rows)).encode())
        self._positions, self._forces, self._energies = _Moments(3), _Moments(3), _Moments(1)
        none = np.zeros(0, dtype=bool)
        self._columns = {name: [none] for name in ("cubic", "defective", "weighted", "stressed")}
        self._columns |= {"energies": [np.zeros(0)], "counts": [np.zeros((0, len(DESCRIPTORS)), dtype=np.int32)]}
        for _, table in tables(
            rows.select_columns([*_HASHED, *_FIXED, "energy", "stress", "source_weight", "charge"])
        ):
            self._look_at(table)

    def _look_at(self, table: pa.Table) -> None:
        values = {name: flat_values(table, name) for name in (*_HASHED, *_FIXED)}
        lengths = {name: list_lengths(table, name) for name in _HASHED}
        energies = table["energy"].to_numpy()  # null becomes NaN
        for name in _HASHED:
            self._digest.update(np.ascontiguousarray(lengths[name]).tobytes())
            self._digest.update(np.ascontiguousarray(values[name]).tobytes())
        for array in (values["cell"], values["pbc"], energies):
            self._digest.update(np.ascontiguousarray(array).tobytes())
        stressed = list_lengths(table, "stress") > 0
        if stressed.any():  # without any the hash is that of earlier versions, which knew no stress
            self._digest.update(stressed.tobytes())
            self._digest.update(np.ascontiguousarray(flat_values(table, "stress")).tobytes())
        weights = table["source_weight"].fill_null(1.0).to_numpy()
        if (weights != 1).any():  # without them rows have the hash of the time before there were weights
            self._digest.update(np.ascontiguousarray(weights).tobytes())
        charges = table["charge"].fill_null(0.0).to_numpy()
        if charges.any():  # likewise
            self._digest.update(b"charge" + np.ascontiguousarray(charges).tobytes())

        self._positions.add(values["positions"].reshape(-1, 3))
        self._forces.add(values["forces"].reshape(-1, 3))
        self._energies.add(energies[~np.isnan(energies), None])
        for name, column in (
            ("counts", element_counts(values["atomic_numbers"], lengths["atomic_numbers"])),
            ("energies", energies),
            ("cubic", is_cubic(values["cell"].reshape(-1, 3, 3), values["pbc"].reshape(-1, 3))),
            ("defective", lengths["defect_sites"] > 0),
            ("weighted", lengths["importance_weights"] > 0),
            ("stressed", stressed & values["pbc"].reshape(-1, 3).all(axis=1)),
        ):
            self._columns[name].append(column)

    def survey(self) -> Survey:
        columns = {name: np.concatenate(pieces) for name, pieces in self._columns.items()}
        counts = columns.pop("counts")
        elements = np.flatnonzero(counts.any(axis=0))
        return Survey(
            content_hash=self._digest.hexdigest()[:16],
            elements=elements,
            counts=counts[:, elements],
            statistics=self._statistics(counts.sum(axis=0, dtype=np.int64)) if len(counts) else None,
            **columns,
        )

    def _statistics(self, counts: np.ndarray) -> DatasetStatistics:
        # Descriptors depend on the element alone, so counting elements is enough.
        share = counts / counts.sum()
        descriptor_mean = share @ DESCRIPTORS
        descriptor_std = np.sqrt(share @ (DESCRIPTORS - descriptor_mean) ** 2)
        positions, forces, energies = self._positions, self._forces, self._energies
        return DatasetStatistics(
            feature_mean=[*positions.mean.tolist(), *descriptor_mean.tolist()],
            feature_std=[*positions.std.tolist(), *descriptor_std.tolist()],
            force_mean=forces.mean.tolist() if forces.count else None,
            force_std=forces.std.tolist() if forces.count else None,
            energy_mean=float(energies.mean[0]) if energies.count else None,
            energy_std=float(energies.std[0]) if energies.count else None,
        )


def element_counts(numbers: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(B, 87) atoms of each element in rows of so many atoms."""
    width = len(DESCRIPTORS)
    codes = np.repeat(np.arange(len(lengths)) * width, lengths) + numbers
    return np.bincount(codes, minlength=len(lengths) * width).reshape(-1, width).astype(np.int32)


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
