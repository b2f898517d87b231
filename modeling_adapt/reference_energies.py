"""Total energies without any geometry: from the composition of a structure, or from nothing but its size."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import datasets
import numpy as np
from numpy.typing import ArrayLike

from .elements_adapt import SYMBOLS


@dataclass(frozen=True)
class CompositionBaseline:
    """Total energy as a sum of one energy per element, by least squares: what a model knows without any geometry.

    Args:
        energy_per_atom (`np.ndarray` of shape `(elements,)`): In eV, NaN for an element that the fit did not see.
    """

    energy_per_atom: np.ndarray

    @classmethod
    def fit(
        cls, compositions: ArrayLike, energies: ArrayLike, known: Mapping[int, float] | None = None
    ) -> "CompositionBaseline":
        """
        Args:
            compositions (`ArrayLike` of shape `(structures, elements)`):
                Number of atoms of each element, see [`compositions`].
            energies (`ArrayLike` of shape `(structures,)`): Total energies in eV.
            known (`Mapping[int, float]`, *optional*): Energies by atomic number, in eV, that are not to be fitted.
        """
        compositions = np.asarray(compositions, dtype=np.float64)
        solution = np.zeros(compositions.shape[1])
        solution[list(known or {})] = list((known or {}).values())
        others = np.setdiff1d(np.arange(len(solution)), list(known or {}))
        rest = np.asarray(energies, dtype=np.float64) - compositions @ solution
        solution[others] = np.linalg.lstsq(compositions[:, others], rest, rcond=None)[0]
        return cls(np.where(compositions.any(axis=0), solution, np.nan))

    def predict(self, compositions: ArrayLike) -> np.ndarray:
        """Energies (structures,) in eV; NaN where a structure holds an element that the fit did not see."""
        compositions = np.asarray(compositions, dtype=np.float64)
        contributions = np.where(compositions > 0, compositions * self.energy_per_atom, 0.0)
        return contributions.sum(axis=-1)

    def element_energies(self) -> dict[str, float]:
        """eV per atom by element, of those that the fit saw."""
        known = np.flatnonzero(np.isfinite(self.energy_per_atom))
        return {SYMBOLS[number]: float(self.energy_per_atom[number]) for number in known}


@dataclass(frozen=True)
class MeanBaseline:
    """The same energy per atom for every structure: what is known without even its elements.

    Args:
        energy_per_atom (`float`): In eV; the mean over the structures of a training split.
    """

    energy_per_atom: float

    @classmethod
    def fit(cls, num_atoms: ArrayLike, energies: ArrayLike) -> "MeanBaseline":
        """Of numbers of atoms (structures,) and total energies (structures,) in eV."""
        return cls(float((np.asarray(energies, dtype=np.float64) / np.asarray(num_atoms, dtype=np.float64)).mean()))

    def predict(self, num_atoms: ArrayLike) -> np.ndarray:
        """Energies (structures,) in eV."""
        return np.asarray(num_atoms, dtype=np.float64) * self.energy_per_atom


def fit_baseline(train: datasets.Dataset) -> CompositionBaseline:
    """Fits the composition-only baseline on a training split; its rows must have energies."""
    return CompositionBaseline.fit(*compositions_and_energies(train))


def fit_mean_baseline(train: datasets.Dataset) -> MeanBaseline:
    """Likewise the mean energy per atom."""
    counts, energies = compositions_and_energies(train)
    return MeanBaseline.fit(counts.sum(axis=1), energies)


def compositions_and_energies(rows: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Compositions (structures, elements) and total energies (structures,) in eV of a data set."""
    table = rows.select_columns(["atomic_numbers", "energy"]).with_format("arrow")[:]
    lists = table["atomic_numbers"].combine_chunks()
    numbers, lengths = (array.to_numpy(zero_copy_only=False) for array in (lists.flatten(), lists.value_lengths()))
    return compositions(np.split(numbers, np.cumsum(lengths)[:-1])), table["energy"].to_numpy()


def compositions(atomic_numbers: Iterable[ArrayLike], num_elements: int = 119) -> np.ndarray:
    """Counts of each atomic number (B, `num_elements`) from B lists of atomic numbers, where 0 is padding."""
    counts = np.stack([np.bincount(np.asarray(numbers), minlength=num_elements) for numbers in atomic_numbers])
    counts[:, 0] = 0
    return counts
