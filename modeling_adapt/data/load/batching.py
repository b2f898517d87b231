"""From data-set rows to batches, without Python loops over atoms.

`datasets`' own formatters walk nested lists in Python (a few hundred structures/s). Here the Arrow buffers of a batch
are viewed as flat numpy arrays and cut by offsets, and all its distances and weights are computed at once.
"""

from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from ...errors import InputError
from ...modeling_adapt import IGNORE_INDEX
from ...neighbours_adapt import Neighbours, find_neighbours, wrap
from ..columns import flat_values, list_column, list_lengths
from ..structures import Target
from .augmentation import AugmentationStep
from .importance import ImportanceWeighting, stacked_defect_distances


class Structure(UserDict):
    """
    What stands in a row, as [`StructureDataset`] describes it. It is no dict, from which a plain `Trainer` would take
    all that the model does not name before a collator sees it.
    """


# Derived once for each row: weights and distances to the defect always, neighbours where positions stay as they are.
# The memory of one process that is used for it, in bytes; rows beyond it are derived each time.
CACHE_SIZE = 2**29

_LIST_COLUMNS = ("atomic_numbers", "positions", "forces", "importance_weights", "defect_sites", "stress")
_SCALARS = {"energy": np.nan, "source_weight": 1.0, "charge": 0.0}  # what is read where they are null
_GEOMETRY = ("positions", "defect_sites", "cell", "pbc")


class Blank(int):
    """Index of a row that is read without its labels: blanks fill up batches that many processes share."""


class StructureDataset(Dataset):
    """Map-style torch data set over rows of `STRUCTURE_FEATURES`.

    An item is a dict of numpy arrays for N atoms: `atomic_numbers` (N,) int64, `positions` (N, 3) float32 Å, `cell`
    (3, 3) float64 Å, `pbc` (3,) bool, `forces` (N, 3) float32 eV/Å or None, `energy` float eV (NaN if there is none),
    `stress` (3, 3) float64 eV/Å³ or None, `charge` float (0 if there is none), `source_weight` float,
    `importance_weights` (N,) float32, `nearest_defect` (N,) float32: minimum-image distance in Å to the nearest defect
    site, inf if there is none, and `row`, its index.

    At a [`Blank`] index, the labels are -100, which no loss counts.

    Args:
        dataset (`datasets.Dataset`): Rows as [`read_split`] returns them.
        weighting ([`ImportanceWeighting`], *optional*):
            Weights rows that have defect sites but no published weights. None leaves them at one.
        augmentation (`Sequence[AugmentationStep]`, defaults to `()`):
            Steps applied in this order to every item. What is drawn for a row depends on the seed, the epoch (see
            [`set_epoch`]) and the row alone, so any number of workers and processes give the same data.
        seed (`int`, defaults to `0`): Of the augmentation, at least 0.
        cutoff (`float`, *optional*):
            Of the model, in Å; items then have `neighbours`, unless they are augmented. None: they have none.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        weighting: ImportanceWeighting | None = None,
        augmentation: Sequence[AugmentationStep] = (),
        seed: int = 0,
        cutoff: float | None = None,
    ):
        self.rows = dataset.select_columns([*_LIST_COLUMNS, *_SCALARS, "cell", "pbc"]).with_format("arrow")
        self.weighting = weighting
        self.augmentation = augmentation
        self.seed = seed
        self.cutoff = None if augmentation else cutoff
        self._derived: dict[int, dict[str, Any]] = {}
        self._room = CACHE_SIZE
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that outlive an epoch see it too

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Structure:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | tuple[int, ...]]) -> list[Structure]:
        """Many items at once, as `torch.utils.data.DataLoader` asks for batches; a tuple stands for all its rows."""
        single = [row for index in indices for row in (index if isinstance(index, tuple) else (index,))]
        rows = [range(len(self))[index] for index in single]
        structures = read_structures(self.rows[rows])
        self._derive(structures, rows)
        epoch = self.epoch
        for place, (index, row) in enumerate(zip(single, rows, strict=True)):
            if self.augmentation:
                rng = np.random.default_rng((self.seed, epoch, row))
                for step in self.augmentation:
                    structures[place] = step(structures[place], rng)
            structures[place]["row"] = row
            if isinstance(index, Blank):
                structures[place] = _blank(structures[place])
        return structures

    def _derive(self, structures: list[Structure], rows: Sequence[int]) -> None:
        """Fills in what [`derive`] finds, from an earlier epoch where there was room for it."""
        new = [place for place, row in enumerate(rows) if row not in self._derived]
        derive([structures[place] for place in new], self.weighting)
        if self.cutoff is not None:
            add_neighbours([structures[place] for place in new], self.cutoff)
        for place, row in enumerate(rows):
            structures[place].update(self._derived.get(row, {}))
        for place in new:
            # Copies, as what is derived for a batch lies in one array.
            derived = {name: structures[place][name].copy() for name in ("importance_weights", "nearest_defect")}
            neighbours = structures[place].get("neighbours", ())
            size = sum(array.nbytes for array in (*derived.values(), *neighbours))
            if neighbours:
                derived["neighbours"] = neighbours
            if size <= self._room:
                self._room -= size
                self._derived[rows[place]] = derived

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


def read_structures(table: pa.Table) -> list[Structure]:
    """Rows of `STRUCTURE_FEATURES`, as Arrow has them; what is derived from them is left to [`derive`]."""
    found = [name for name in _LIST_COLUMNS if name in table.column_names]  # rows of earlier versions have no stress
    columns: dict[str, Sequence[Any]] = dict.fromkeys(_LIST_COLUMNS, [None] * len(table))
    columns |= {name: list_column(table, name) for name in found}
    columns["cell"] = list(flat_values(table, "cell").reshape(-1, 3, 3))
    columns["pbc"] = list(flat_values(table, "pbc").reshape(-1, 3))
    for name, missing in _SCALARS.items():
        columns[name] = [missing] * len(table)
        if name in table.column_names:
            columns[name] = table[name].fill_null(missing).to_numpy().astype(np.float64).tolist()
    structures = [Structure(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for item in structures:
        item["atomic_numbers"] = item["atomic_numbers"].astype(np.int64)
    return structures


def _from_row(row: Mapping[str, Any]) -> Structure:
    """A row as `datasets` gives it, in Python's types, numpy's or torch's."""
    types = {"atomic_numbers": np.int64, "cell": np.float64, "stress": np.float64, "pbc": bool}
    item = Structure()
    for name in (*_LIST_COLUMNS, "cell", "pbc"):
        value = row.get(name)
        item[name] = None if value is None else np.asarray(value, dtype=types.get(name, np.float32))
        if item[name] is not None and name in ("positions", "forces", "defect_sites", "stress", "cell"):
            item[name] = item[name].reshape(-1, 3)
    for name, missing in _SCALARS.items():
        item[name] = missing if row.get(name) is None else float(row[name])
    return item


def derive(structures: list[Structure], weighting: ImportanceWeighting | None = None) -> None:
    """Turns `defect_sites` into `nearest_defect` and, where none are published, `importance_weights`."""
    largest = max((len(item["atomic_numbers"]) for item in structures), default=0)
    ones, infinite = np.ones(largest, dtype=np.float32), np.full(largest, np.inf, dtype=np.float32)
    for shared in (ones, infinite):
        shared.setflags(write=False)
    defective = []
    for item in structures:
        size = len(item["atomic_numbers"])
        item["nearest_defect"] = infinite[:size]
        if item["defect_sites"] is not None and len(item["defect_sites"]):
            defective.append(item)
        elif item["importance_weights"] is None:
            item["importance_weights"] = ones[:size]
    if defective:
        _measure(defective, weighting)


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


def add_neighbours(structures: list[Structure], cutoff: float) -> None:
    """Fills in `neighbours`: the [`Neighbours`] of each structure, in types that take little memory."""
    if not structures:
        return
    counts = np.array([len(item["atomic_numbers"]) for item in structures])
    is_atom = np.arange(counts.max()) < counts[:, None]
    positions = np.zeros((*is_atom.shape, 3))
    positions[is_atom] = np.concatenate([item["positions"] for item in structures])
    cells = np.array([np.where(item["pbc"][:, None], item["cell"], 0.0) for item in structures])
    found = find_neighbours(wrap(positions, cells), cells, is_atom, cutoff)
    for item, count, index, shifts in zip(structures, counts, *found, strict=True):
        slots = max(1, (index[:count] >= 0).any(axis=0).sum())
        item["neighbours"] = Neighbours(index[:count, :slots].astype(np.int32), shifts[:count, :slots].astype(np.int8))


class StructureCollator:
    """Structures to one padded batch: what the feature extractor returns, plus labels.

    It also takes rows as `datasets` gives them, in the types of Python, numpy, torch or Arrow, streamed or not, as in
    a plain `transformers.Trainer`:

        rows = load_dataset(folder, split="train", streaming=True)
        collator = StructureCollator(ADAPTFeatureExtractor.for_model(model.config))
        Trainer(model, arguments, train_dataset=rows, data_collator=collator).train()

    Args:
        feature_extractor ([`ADAPTFeatureExtractor`]): The one of the model.
        target (`Target`, defaults to `"forces"`):
            `"forces"` adds `labels` (B, N, 3) float32 eV/Å padded with -100, `importance_weights` (B, N) padded with 0
            and `nearest_defect` (B, N) Å padded with inf; `"energy"` adds `labels` (B,) float64 eV;
            `"energy_and_forces"` adds these, `reference_forces` (B, N, 3) padded with -100, and the weights and
            distances too; `"stress"` adds `labels` (B, 3, 3) eV/Å³, -100 where there is none. With
            `"energy_and_forces"`, NaN is the label of a structure whose energy is not known and whose forces are. All
            add `structure_weights` (B,), by which the loss of each structure is multiplied, unless they are all 1.
            `rows` (B,) holds the index of each structure in its data set, where it has one.
        weighting ([`ImportanceWeighting`], *optional*): For rows; as for [`StructureDataset`], which weighs its own.
        stress (`bool`, defaults to `False`):
            Adds `reference_stress` (B, 3, 3) eV/Å³, -100 where there is none, beside other labels.
    """

    def __init__(
        self,
        feature_extractor: Any,
        target: Target = "forces",
        weighting: ImportanceWeighting | None = None,
        stress: bool = False,
    ):
        if target not in get_args(Target):
            raise ValueError(f"target must be one of {', '.join(map(repr, get_args(Target)))}, not {target!r}")
        self.stress = stress
        self.feature_extractor = feature_extractor
        self.target = target
        self.weighting = weighting

    def __call__(self, structures: Sequence[Any]) -> dict[str, torch.Tensor]:
        structures = self._structures(structures)
        names = ("atomic_numbers", "positions", "cell", "pbc", "neighbours", "charge")
        geometry = [{name: item[name] for name in names if name in item} for item in structures]
        batch = dict(self.feature_extractor(geometry, return_tensors="pt"))
        size = batch["input_features"].shape[1]
        if "row" in structures[0]:
            batch["rows"] = torch.tensor([item["row"] for item in structures])
        if self.target in ("forces", "energy_and_forces"):
            if any(item["forces"] is None for item in structures):
                raise InputError("the data set has structures without forces; read it with target='forces'")
            name = "labels" if self.target == "forces" else "reference_forces"
            batch[name] = _pad(structures, "forces", size, IGNORE_INDEX)
            batch["importance_weights"] = _pad(structures, "importance_weights", size, 0.0)
            batch["nearest_defect"] = _pad(structures, "nearest_defect", size, np.inf)
        if self.target in ("energy", "energy_and_forces"):
            batch["labels"] = _energies(structures, required=self.target == "energy")
        for name in ("labels",) * (self.target == "stress") + ("reference_stress",) * self.stress:
            batch[name] = _stresses(structures)
        weights = torch.tensor([item["source_weight"] for item in structures], dtype=torch.float32)
        if (weights != 1).any():
            batch["structure_weights"] = weights
        return batch

    def _structures(self, structures: Sequence[Any]) -> list[Structure]:
        """What [`StructureDataset`] gives as it is; rows in another form as it would give them."""
        if isinstance(structures[0], Structure):
            return list(structures)
        if isinstance(structures[0], pa.Table):
            rows = read_structures(pa.concat_tables(structures))
        else:
            rows = [_from_row(row) for row in structures]
        derive(rows, self.weighting)
        return rows


def _energies(structures: list[Structure], required: bool) -> torch.Tensor:
    """Energies (B,) in eV, -100 for blanks; NaN where there is none, unless it is required."""
    energies = np.array([item["energy"] for item in structures], dtype=np.float64)
    if required and np.isnan(energies).any():
        raise InputError("the data set has structures without energy; read it with target='energy'")
    energies[energies == IGNORE_INDEX] = np.nextafter(IGNORE_INDEX, 0.0)  # an energy may happen to be the mark
    energies[["blank" in item for item in structures]] = IGNORE_INDEX
    return torch.from_numpy(energies)


def _stresses(structures: list[Structure]) -> torch.Tensor:
    """Float32 (B, 3, 3) in eV/Å³, -100 where there is none, and for blanks."""
    none = np.full((3, 3), IGNORE_INDEX)
    known = [none if item["stress"] is None or "blank" in item else item["stress"] for item in structures]
    return torch.from_numpy(np.array(known, dtype=np.float32))


def _pad(structures: list[Structure], name: str, size: int, filler: float) -> torch.Tensor:
    """Per-atom arrays (n, ...) of different n as one float32 tensor (B, size, ...)."""
    padded = np.full((len(structures), size, *structures[0][name].shape[1:]), filler, dtype=np.float32)
    for row, item in enumerate(structures):
        padded[row, : len(item[name])] = item[name]
    return torch.from_numpy(padded)
