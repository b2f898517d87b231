"""From data-set rows to batches, without Python loops over atoms.

`datasets`' own formatters walk nested lists in Python (a few hundred structures/s). Here the Arrow buffers of a batch
are viewed as flat numpy arrays and cut by offsets, and all its distances and weights are computed at once.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from ...errors import InputError
from ...modeling_adapt import IGNORE_INDEX
from ..columns import flat_values, list_column, list_lengths
from ..structures import Target
from .augmentation import AugmentationStep
from .importance import ImportanceWeighting, stacked_defect_distances

Structure = dict[str, Any]  # numpy arrays and an energy; see `StructureDataset`

_LIST_COLUMNS = ("atomic_numbers", "positions", "forces", "importance_weights", "defect_sites")
_GEOMETRY = ("positions", "defect_sites", "cell", "pbc")


class Blank(int):
    """Index of a row that is read without its labels: blanks fill up batches that many processes share."""


class StructureDataset(Dataset):
    """Map-style torch data set over rows of `STRUCTURE_FEATURES`.

    An item is a dict of numpy arrays for N atoms: `atomic_numbers` (N,) int64, `positions` (N, 3) float32 Å, `cell`
    (3, 3) float64 Å, `pbc` (3,) bool, `forces` (N, 3) float32 eV/Å or None, `energy` float eV (NaN if there is none),
    `importance_weights` (N,) float32, `nearest_defect` (N,) float32: minimum-image distance in Å to the nearest
    defect site, inf if there is none, and `row`, its index.

    At a [`Blank`] index, the labels are -100, which no loss counts.

    Args:
        dataset: rows as [`read_split`] returns them.
        weighting: weights rows that have defect sites but no published weights. None leaves them at one.
        augmentation: steps applied in this order to every item. What is drawn for a row depends on the seed, the epoch
            (see [`set_epoch`]) and the row alone, so any number of workers and processes give the same data.
        seed: of the augmentation, at least 0.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        weighting: ImportanceWeighting | None = None,
        augmentation: Sequence[AugmentationStep] = (),
        seed: int = 0,
    ):
        self.rows = dataset.select_columns([*_LIST_COLUMNS, "cell", "pbc", "energy"]).with_format("arrow")
        self.weighting = weighting
        self.augmentation = augmentation
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that outlive an epoch see it too

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Structure:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Structure]:
        """Many items at once; `torch.utils.data.DataLoader` asks for whole batches here."""
        rows = [range(len(self))[index] for index in indices]
        structures = structures_from_table(self.rows[rows], self.weighting)
        epoch = self.epoch
        for place, (index, row) in enumerate(zip(indices, rows, strict=True)):
            if self.augmentation:
                rng = np.random.default_rng((self.seed, epoch, row))
                for step in self.augmentation:
                    structures[place] = step(structures[place], rng)
            structures[place]["row"] = row
            if isinstance(index, Blank):
                structures[place] = _blank(structures[place])
        return structures

    @property
    def epoch(self) -> int:
        """The epoch that the augmentation draws for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Call before each epoch, before the iteration begins; otherwise all epochs are augmented alike."""
        self._epoch.fill_(epoch)

    def sizes(self) -> list[int]:
        """The number of atoms of every row."""
        return list_lengths(self.rows.select_columns("atomic_numbers")[:], "atomic_numbers").tolist()


def _blank(structure: Structure) -> Structure:
    forces = structure["forces"]
    return structure | {"blank": True, "forces": None if forces is None else np.full_like(forces, IGNORE_INDEX)}


def structures_from_table(table: pa.Table, weighting: ImportanceWeighting | None = None) -> list[Structure]:
    """Rows of `STRUCTURE_FEATURES`, as Arrow has them, to structures as [`StructureDataset`] describes them."""
    columns: dict[str, Sequence[Any]] = {name: list_column(table, name) for name in _LIST_COLUMNS}
    columns["cell"] = list(flat_values(table, "cell").reshape(-1, 3, 3))
    columns["pbc"] = list(flat_values(table, "pbc").reshape(-1, 3))
    columns["energy"] = table["energy"].to_numpy().astype(np.float64).tolist()  # null becomes NaN
    structures = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    largest = max((len(item["atomic_numbers"]) for item in structures), default=0)
    ones, infinite = np.ones(largest, dtype=np.float32), np.full(largest, np.inf, dtype=np.float32)
    for shared in (ones, infinite):
        shared.setflags(write=False)
    defective = []
    for item in structures:
        item["atomic_numbers"] = item["atomic_numbers"].astype(np.int64)
        size = len(item["atomic_numbers"])
        item["nearest_defect"] = infinite[:size]
        if item["defect_sites"] is not None and len(item["defect_sites"]):
            defective.append(item)
        elif item["importance_weights"] is None:
            item["importance_weights"] = ones[:size]
    if defective:
        _measure(defective, weighting)
    for item in structures:
        del item["defect_sites"]
    return structures


def _measure(structures: list[Structure], weighting: ImportanceWeighting | None) -> None:
    """Fills in the weights, unless published, and the distances to the nearest defect; each structure has a site."""
    positions, sites, cells, pbc = ([item[name] for item in structures] for name in _GEOMETRY)
    geometry = (positions, sites, np.array(cells), np.array(pbc))
    starts = np.cumsum([0, *map(len, sites[:-1])])
    distances = stacked_defect_distances(*geometry)
    nearest = np.minimum.reduceat(distances, starts, axis=0).astype(np.float32)
    if weighting is None:
        weights = np.ones_like(nearest)
    else:
        if not weighting.minimum_image:
            distances = stacked_defect_distances(*geometry, minimum_image=False)
        weights = weighting.stacked_weights(distances, starts)
    for item, own_nearest, own_weights in zip(structures, nearest, weights, strict=True):
        size = len(item["positions"])
        item["nearest_defect"] = own_nearest[:size]
        if item["importance_weights"] is None:
            item["importance_weights"] = own_weights[:size]


class StructureCollator:
    """Structures to one padded batch: what the feature extractor returns, plus labels.

    It also takes rows as they come from a streamed data set, one Arrow table each:

        rows = load_dataset(folder, split="train", streaming=True).with_format("arrow")
        batches = DataLoader(rows, batch_size=64, collate_fn=StructureCollator(ADAPTFeatureExtractor()), num_workers=2)

    Args:
        feature_extractor: [`ADAPTFeatureExtractor`].
        target: `"forces"` adds `labels` (B, N, 3) float32 eV/Å padded with -100, `importance_weights` (B, N) padded
            with 0 and `nearest_defect` (B, N) Å padded with inf; `"energy"` adds `labels` (B,) float64 eV;
            `"energy_and_forces"` adds these, `force_labels` (B, N, 3) padded with -100, and `nearest_defect`. `rows`
            (B,) holds the index of each structure in its data set, where it has one.
        weighting: for streamed rows; as for [`StructureDataset`], which weighs its own.
    """

    def __init__(
        self, feature_extractor: Any, target: Target = "forces", weighting: ImportanceWeighting | None = None
    ):
        if target not in ("forces", "energy", "energy_and_forces"):
            raise ValueError(f"target must be 'forces', 'energy' or 'energy_and_forces', not {target!r}")
        self.feature_extractor = feature_extractor
        self.target = target
        self.weighting = weighting

    def __call__(self, structures: list[Structure] | list[pa.Table]) -> dict[str, torch.Tensor]:
        if isinstance(structures[0], pa.Table):
            structures = structures_from_table(pa.concat_tables(structures), self.weighting)
        geometry = [{key: item[key] for key in ("atomic_numbers", "positions", "cell", "pbc")} for item in structures]
        batch = dict(self.feature_extractor(geometry, return_tensors="pt"))
        size = batch["input_features"].shape[1]
        if "row" in structures[0]:
            batch["rows"] = torch.tensor([item["row"] for item in structures])
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
        energies[energies == IGNORE_INDEX] = np.nextafter(IGNORE_INDEX, 0.0)  # an energy may happen to be the mark
        energies[["blank" in item for item in structures]] = IGNORE_INDEX
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
