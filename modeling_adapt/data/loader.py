"""From data-set rows to batches, without Python loops over atoms.

`datasets`' own formatters walk nested lists in Python (a few hundred structures/s). Here the Arrow buffers of a batch
are viewed as flat numpy arrays and cut by offsets.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import InputError
from ..modeling_adapt import IGNORE_INDEX
from .columns import flat_values, list_column
from .importance import ImportanceWeighting, defect_distances
from .structures import Target

Structure = dict[str, Any]  # numpy arrays and an energy; see `StructureDataset`


class StructureDataset(Dataset):
    """Map-style torch data set over rows of `STRUCTURE_FEATURES`.

    An item is a dict of numpy arrays for N atoms: `atomic_numbers` (N,) int64, `positions` (N, 3) float32 Å, `cell`
    (3, 3) float64 Å, `pbc` (3,) bool, `forces` (N, 3) float32 eV/Å or None, `energy` float eV (NaN if there is none),
    `importance_weights` (N,) float32 and `nearest_defect` (N,) float32: minimum-image distance in Å to the nearest
    defect site, inf if there is none.

    Args:
        dataset: rows as [`read_split`] returns them.
        weighting: weights rows that have defect sites but no published weights. None leaves them at one.
    """

    def __init__(self, dataset: datasets.Dataset, weighting: ImportanceWeighting | None = None):
        self.rows = dataset.with_format("arrow")
        self.weighting = weighting

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Structure:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Structure]:
        """Many items at once; `torch.utils.data.DataLoader` asks for whole batches here."""
        table = self.rows[list(indices)]
        columns = {
            name: list_column(table, name) for name in ("atomic_numbers", "positions", "forces", "defect_sites")
        }
        published = list_column(table, "importance_weights")
        cells = flat_values(table, "cell").reshape(-1, 3, 3)
        pbc = flat_values(table, "pbc").reshape(-1, 3)
        energies = table["energy"].to_numpy()  # null becomes NaN
        items = []
        for row in range(len(table)):
            item: Structure = {name: column[row] for name, column in columns.items()}
            item.update(cell=cells[row], pbc=pbc[row], energy=float(energies[row]))
            item["atomic_numbers"] = item["atomic_numbers"].astype(np.int64)
            self._measure(item, published[row])
            items.append(item)
        return items

    def _measure(self, item: Structure, published: np.ndarray | None) -> None:
        """Adds the weights and the distances to the nearest defect, which replace the defect sites."""
        sites = item.pop("defect_sites")
        atoms = len(item["atomic_numbers"])
        if sites is None or len(sites) == 0:
            item["importance_weights"] = np.ones(atoms, dtype=np.float32) if published is None else published
            item["nearest_defect"] = np.full(atoms, np.inf, dtype=np.float32)
            return
        geometry = (item["positions"], sites, item["cell"], item["pbc"])
        distances = defect_distances(*geometry)
        item["nearest_defect"] = distances.min(axis=1).astype(np.float32)
        if published is not None:
            weights = published
        elif self.weighting is None:
            weights = np.ones(atoms)
        elif self.weighting.minimum_image:
            weights = self.weighting.weights(distances)
        else:
            weights = self.weighting.weights(defect_distances(*geometry, minimum_image=False))
        item["importance_weights"] = weights.astype(np.float32)


class StructureCollator:
    """Structures to one padded batch: what the feature extractor returns, plus labels.

    Args:
        feature_extractor: [`ADAPTFeatureExtractor`].
        target: `"forces"` adds `labels` (B, N, 3) float32 eV/Å padded with -100, `importance_weights` (B, N) padded
            with 0 and `nearest_defect` (B, N) Å padded with inf; `"energy"` adds `labels` (B,) float64 eV;
            `"energy_and_forces"` adds these, `force_labels` (B, N, 3) padded with -100, and `nearest_defect`.
    """

    def __init__(self, feature_extractor: Any, target: Target = "forces"):
        if target not in ("forces", "energy", "energy_and_forces"):
            raise ValueError(f"target must be 'forces', 'energy' or 'energy_and_forces', not {target!r}")
        self.feature_extractor = feature_extractor
        self.target = target

    def __call__(self, structures: list[Structure]) -> dict[str, torch.Tensor]:
        geometry = [{key: item[key] for key in ("atomic_numbers", "positions", "cell", "pbc")} for item in structures]
        batch = dict(self.feature_extractor(geometry, return_tensors="pt"))
        size = batch["input_features"].shape[1]
        if self.target != "energy":
            if any(item["forces"] is None for item in structures):
                raise InputError("the data set has structures without forces; read it with target='forces'")
            forces = _pad(structures, "forces", size, IGNORE_INDEX)
            batch["nearest_defect"] = _pad(structures, "nearest_defect", size, np.inf)
        if self.target == "forces":
            batch["labels"] = forces
            batch["importance_weights"] = _pad(structures, "importance_weights", size, 0.0)
            return batch
        energies = np.array([item["energy"] for item in structures], dtype=np.float64)
        if np.isnan(energies).any():
            raise InputError("the data set has structures without energy; read it with target='energy'")
        batch["labels"] = torch.from_numpy(energies)
        if self.target == "energy_and_forces":
            batch["force_labels"] = forces
        return batch


def _pad(structures: list[Structure], name: str, size: int, filler: float) -> torch.Tensor:
    """Per-atom arrays (n, ...) of different n as one float32 tensor (B, size, ...)."""
    padded = np.full((len(structures), size, *structures[0][name].shape[1:]), filler, dtype=np.float32)
    for row, item in enumerate(structures):
        padded[row, : len(item[name])] = item[name]
    return torch.from_numpy(padded)
