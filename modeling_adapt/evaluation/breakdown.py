"""Force errors by what an atom is and where it is: the mean over all atoms hides the few that decide a relaxation."""

from collections import defaultdict
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from ..modeling_adapt import IGNORE_INDEX
from .metrics import ForceMetrics, as_float64

SHELLS = {"0-3 Å": (0.0, 3.0), "3-5 Å": (3.0, 5.0), "5-8 Å": (5.0, 8.0), "8 Å and more": (8.0, np.inf)}
"""Distances to the nearest defect site, from the first to just below the second; bonds are within the first."""


class ForceBreakdown:
    """Accumulates the errors of [`ForceMetrics`] by element and by distance to the nearest defect site."""

    def __init__(self) -> None:
        self._elements: dict[int, ForceMetrics] = defaultdict(ForceMetrics)
        self._shells: dict[str, ForceMetrics] = defaultdict(ForceMetrics)

    def update(self, forces: Any, labels: Any, atomic_numbers: np.ndarray, nearest_defect: np.ndarray) -> None:
        """
        Args:
            forces, labels (B, N, 3): in eV/Å, -100 on the padding of labels.
            atomic_numbers (B, N): 0 on padding.
            nearest_defect (B, N): distance of each atom to the nearest defect site in Å, inf where none is known.
        """
        forces, labels = as_float64(forces), as_float64(labels)
        known = (labels != IGNORE_INDEX).all(axis=-1)
        for number in np.unique(atomic_numbers[known]).tolist():
            _add(self._elements[number], forces, labels, known & (atomic_numbers == number), nearest_defect)
        for name, (least, below) in SHELLS.items():
            inside = known & (nearest_defect >= least) & (nearest_defect < below)
            if inside.any():
                _add(self._shells[name], forces, labels, inside)

    def compute(self) -> dict[str, Any]:
        """`by_element` (symbol to group) and, where a defect site is known, `by_defect_distance` (shell to group)."""
        elements = {chemical_symbols[number]: _group(self._elements[number]) for number in sorted(self._elements)}
        shells = {name: _group(self._shells[name]) for name in SHELLS if name in self._shells}
        return {"by_element": elements} | ({"by_defect_distance": shells} if shells else {})


def _add(
    metrics: ForceMetrics,
    forces: np.ndarray,
    labels: np.ndarray,
    chosen: np.ndarray,
    nearest_defect: np.ndarray | None = None,
) -> None:
    """The atoms (B, N) that are `chosen`, of the structures that have some."""
    some = chosen.any(axis=1)
    near = None if nearest_defect is None else nearest_defect[some]
    metrics.update(forces[some], np.where(chosen[..., None], labels, IGNORE_INDEX)[some], near)


def _group(metrics: ForceMetrics) -> dict[str, Any]:
    return {name: value for name, value in metrics.compute().items() if name != "by_config_type"}
