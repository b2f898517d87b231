"""Feature extractor of ADAPT: structures -> atom tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, FeatureExtractionMixin

from .elements_adapt import DESCRIPTORS, SYMBOLS, descriptors
from .neighbours_adapt import (
    NeighbourList,
    Neighbours,
    cell_fault,
    find_neighbours,
    find_wave_numbers,
    thin_cells,
    turns_of,
)
from .pretrained_adapt import in_the_box

PLANE_SPACING = 1.36  # Å, of the (400) planes of silicon: atoms of one plane stay together in a canonical order


class ADAPTBatch(BatchFeature):
    """What the models read. Cast to a type of low precision, positions and cells stay as they are."""

    def to(self, *args: Any, **kwargs: Any) -> "ADAPTBatch":
        exact = {name: self.data[name] for name in ("input_features", "cell") if name in self.data}
        super().to(*args, **kwargs)
        for name, values in exact.items():
            if self.data[name].dtype.itemsize < values.dtype.itemsize and self.data[name].dtype.itemsize < 4:
                self.data[name] = values.to(self.data[name].device)
        return self


class ADAPTFeatureExtractor(FeatureExtractionMixin):
    r"""
    Turns structures into the tensors that the ADAPT models read: one token per atom, x, y, z in Å followed by nine
    element descriptors (see `elements_adapt.py`). Values are physical; the model normalises them.

    Args:
        canonical_order (`bool`, defaults to `False`):
            Sort the atoms of each structure by element and place. For the published energy network, which reads them
            by their place in the list: however a file lists them, the energy is then the same. What a model says
            about each atom would come in that order too. `False`: as they are given.
        cutoff (`float`, *optional*):
            Distance in Å up to which the pairs of neighbours are listed, for models with a `config.cutoff`; positions
            are then wrapped into the cell, in float64, before they are rounded. `None`: neither.
        reciprocal_cutoff (`float`, *optional*):
            Length in 1/Å up to which the waves of the lattice are listed, for models with `config.long_range`; then
            all structures must be periodic in all three directions. `None`: none are.
        reads_charge (`bool`, defaults to `False`):
            Whether to give total charges, for models with `config.reads_charge`.
    """

    model_input_names = [
        *("input_features", "attention_mask", "cell", "atomic_numbers"),
        *("neighbours", "neighbour_shifts", "wave_numbers", "charge"),
    ]

    def __init__(
        self,
        canonical_order: bool = False,
        cutoff: float | None = None,
        reciprocal_cutoff: float | None = None,
        reads_charge: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.canonical_order = canonical_order
        self.cutoff = cutoff
        self.reciprocal_cutoff = reciprocal_cutoff
        self.reads_charge = reads_charge

    @classmethod
    def get_feature_extractor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        return super().get_feature_extractor_dict(in_the_box(pretrained_model_name_or_path), **kwargs)

    @classmethod
    def for_model(cls, config: Any) -> "ADAPTFeatureExtractor":
        """The one that a model of this configuration needs."""
        return cls(config.traits.reads_order, config.cutoff, config.reciprocal_cutoff, config.reads_charge)

    def to_dict(self) -> dict[str, Any]:
        """Its arguments alone, with its own code: what else a file of somebody names is not written again."""
        written: dict[str, Any] = {"canonical_order": self.canonical_order, "cutoff": self.cutoff}
        written |= {name: value for name in ("reciprocal_cutoff", "reads_charge") if (value := getattr(self, name))}
        if getattr(self, "auto_map", None):
            written["auto_map"] = {"AutoFeatureExtractor": f"feature_extraction_adapt.{type(self).__name__}"}
        return written | {"feature_extractor_type": type(self).__name__}

    def __call__(
        self,
        structures: Any | Mapping[str, Any] | Sequence[Any],
        return_tensors: str | None = "pt",
        dtype: str = "float32",
    ) -> BatchFeature:
        """
        Args:
            structures (`ase.Atoms`, `Mapping[str, Any]` or `Sequence[Any]`):
                One or a sequence of them. A mapping has `atomic_numbers` (N,), `positions` (N, 3) in Å and, where the
                structure is periodic, `cell` (3, 3) in Å with the lattice vectors as rows; `pbc` (3,) defaults to
                periodic; its total `charge`, in elementary charges, to 0 (of `ase.Atoms` that is `info["charge"]`). Or
                it has a list of each of these, as several rows of a data set are one mapping. Mappings may bring
                `neighbours`, the [`Neighbours`] of an earlier call for the same positions; then nothing is searched.
                Or there is a [`NeighbourList`], with this cutoff, which follows them as they move.
            return_tensors (`str`, *optional*, defaults to `"pt"`):
                `"pt"`, `"np"` or `None`, as everywhere in transformers.
            dtype (`str`, defaults to `"float32"`):
                Floating-point type of the tensors; `"float64"` for finite differences.

        Returns:
            [`BatchFeature`]: `input_features` (B, N, 12), `attention_mask` (B, N; 1 = atom, 0 = padding), `cell`
            (B, 3, 3; zero rows along directions that are not periodic) and `atomic_numbers` (B, N; 0 = padding). With
            a `cutoff` also `neighbours` (B, N, S; -1 = empty slot) and `neighbour_shifts` (B, N, S, 3), see
            [`find_neighbours`]; with a `reciprocal_cutoff` also `wave_numbers` (B, K, 3; zeros = empty slot), see
            [`find_wave_numbers`]; with `reads_charge` also `charge` (B,).

        Raises:
            `ValueError`: A structure without atoms, of mismatched shapes, with a value that is not finite, a cell
                without volume, an element that has no descriptors, or with a `reciprocal_cutoff` a direction that is
                not periodic; the message names the structure and the atom.
        """
        if isinstance(structures, Mapping) and _holds_several(structures):
            columns = {name: structures[name] for name in _STRUCTURE if structures.get(name) is not None}
            structures = [
                {name: value for name, value in zip(columns, row, strict=True) if value is not None}
                for row in zip(*columns.values(), strict=True)
            ]
        elif isinstance(structures, Mapping) or hasattr(structures, "get_atomic_numbers"):
            structures = [structures]
        arrays = [_arrays(structure, index) for index, structure in enumerate(structures)]
        counts = np.array([len(numbers) for numbers, _, _ in arrays], dtype=np.int64)
        is_atom = np.arange(counts.max(initial=0)) < counts[:, None]
        slots = np.flatnonzero(is_atom)

        # All atoms at once: a loop over structures would take longer than everything else that makes a batch.
        atomic_numbers = np.zeros(is_atom.shape, dtype=np.int64)
        cells = np.zeros((len(arrays), 3, 3))
        positions = np.zeros((*is_atom.shape, 3))
        tokens = np.zeros((len(DESCRIPTORS), 12), dtype=dtype)  # of an atom at the origin, by atomic number
        tokens[:, 3:] = DESCRIPTORS
        if arrays:
            _require_valid(arrays)
            if self.canonical_order:
                arrays = [_in_canonical_order(*structure) for structure in arrays]
            atomic_numbers.reshape(-1)[slots] = np.concatenate([numbers for numbers, _, _ in arrays])
            cells[:] = [cell for _, _, cell in arrays]
            positions.reshape(-1, 3)[slots] = np.concatenate([positions for _, positions, _ in arrays])
        unwrapped = positions
        if self.cutoff is not None:
            turns = turns_of(positions, cells)
            positions = positions - turns @ cells
        input_features = tokens.take(atomic_numbers, axis=0)
        input_features[..., :3] = positions
        data = {
            "input_features": input_features,
            "attention_mask": is_atom.astype(np.int64),
            "cell": cells.astype(dtype),
            "atomic_numbers": atomic_numbers,
        }
        if self.cutoff is not None:
            known = _neighbours_given(structures, unwrapped, cells, turns, is_atom)
            found = known or find_neighbours(positions, cells, is_atom, self.cutoff)
            data |= {"neighbours": found.others, "neighbour_shifts": found.shifts}
        if self.reciprocal_cutoff is not None:
            data["wave_numbers"] = find_wave_numbers(cells, self.reciprocal_cutoff)
        if self.reads_charge:
            data["charge"] = np.array([charge_of(one, index) for index, one in enumerate(structures)], dtype=dtype)
        return ADAPTBatch(data, tensor_type=return_tensors)


_STRUCTURE = ("atomic_numbers", "positions", "cell", "pbc", "charge")


def charge_of(structure: Any, index: int = 0) -> float:
    """Total charge in elementary charges of a structure as [`ADAPTFeatureExtractor`] takes it; 0 if none is told."""
    told = structure.get("charge") if isinstance(structure, Mapping) else structure.info.get("charge")
    try:
        charge = 0.0 if told is None else float(told)
    except (TypeError, ValueError):
        charge = np.nan
    if not np.isfinite(charge):
        raise ValueError(f"structure {index}: a charge must be a number of elementary charges, not {told!r}")
    return charge


def require_charges_read(structures: Sequence[Any], reads_charge: bool) -> None:
    """Raises a `ValueError` for a charged structure, unless it is for a model that reads charges."""
    for index, structure in enumerate(() if reads_charge else structures):
        if charge := charge_of(structure, index):
            raise ValueError(
                f"structure {index}: a charge of {charge:+g}, but this model was trained without charges "
                "(reads_charge) and takes all structures for neutral"
            )


def require_readable(structure: Any) -> None:
    """Raises the `ValueError` that an [`ADAPTFeatureExtractor`] would raise for one structure."""
    _require_valid([_arrays(structure, 0)])


def _neighbours_given(
    structures: Sequence[Any], positions: np.ndarray, cells: np.ndarray, turns: np.ndarray, is_atom: np.ndarray
) -> Neighbours | None:
    """Those that the structures bring, or their lists tell, padded; None unless all have them."""
    given = [known for one in structures if isinstance(one, Mapping) and (known := one.get("neighbours")) is not None]
    if not given or len(given) < len(structures):
        return None
    for row, known in enumerate(given):
        if isinstance(known, NeighbourList):
            size = int(is_atom[row].sum())
            given[row] = known(positions[row, :size], cells[row], turns[row, :size])
    slots = max(found.others.shape[1] for found in given)
    index = np.full((*is_atom.shape, slots), -1, dtype=np.int64)
    shifts = np.zeros((*is_atom.shape, slots, 3), dtype=np.int32)
    for row, found in enumerate(given):
        size, width = found.others.shape
        index[row, :size, :width], shifts[row, :size, :width] = found
    return Neighbours(index, shifts)


def _holds_several(structures: Mapping[str, Any]) -> bool:
    """Whether a mapping has a list of atomic numbers for each of several structures."""
    numbers = structures["atomic_numbers"]
    return len(numbers) > 0 and np.ndim(numbers[0]) == 1


def _arrays(structure: Any, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atomic numbers (N,), positions (N, 3) and cell (3, 3) with zero rows where not periodic, all checked."""
    if isinstance(structure, Mapping):
        numbers, positions = structure["atomic_numbers"], structure["positions"]
        cell = structure.get("cell")
        pbc = structure.get("pbc", (True, True, True))
    else:
        numbers, positions = structure.get_atomic_numbers(), structure.get_positions()
        cell, pbc = structure.cell.array, structure.pbc
    numbers, positions = np.asarray(numbers), np.asarray(positions)
    cell = np.zeros((3, 3)) if cell is None else np.where(np.reshape(pbc, (3, 1)), cell, 0.0)

    if len(numbers) == 0:
        raise ValueError(f"structure {index} has no atoms")
    if positions.shape != (len(numbers), 3):
        raise ValueError(
            f"structure {index}: positions must have shape ({len(numbers)}, 3) like its atomic numbers, "
            f"not {positions.shape}"
        )
    return numbers, positions, cell


def _in_canonical_order(
    numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The atoms by element, then by lattice plane along each axis, then by coordinate. Planes come before coordinates, as
    vibrations, or the image that an atom is written in, would otherwise shuffle the atoms of a plane.
    """
    if cell.any(axis=1).all():
        count = np.maximum(np.linalg.norm(cell, axis=1) / PLANE_SPACING, 1).round()
        coordinates = (positions @ np.linalg.inv(cell)) * count
        coordinates = (coordinates + 0.5) % count - 0.5
    else:
        coordinates = positions / PLANE_SPACING
    order = np.lexsort((*coordinates.T[::-1], *coordinates.round().T[::-1], numbers))
    return numbers[order], positions[order], cell


def _require_valid(arrays: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """Raises the error of the first structure that has one; what is said is found out only then."""
    numbers = np.concatenate([numbers for numbers, _, _ in arrays])
    finite = np.isfinite(np.concatenate([positions for _, positions, _ in arrays])).all()
    known = numbers.dtype.kind in "iu" and numbers.min() >= 1 and numbers.max() < len(DESCRIPTORS)
    if finite and known and not thin_cells(np.array([cell for _, _, cell in arrays])).any():
        return
    for index, (numbers, positions, cell) in enumerate(arrays):
        if not np.isfinite(positions).all():
            atom = int(np.argwhere(~np.isfinite(positions).all(axis=1))[0, 0])
            symbol = SYMBOLS[numbers[atom]] if 0 < numbers[atom] < len(SYMBOLS) else "?"
            raise ValueError(f"structure {index}: the position of atom {atom} ({symbol}) is not finite")
        if (fault := cell_fault(cell)) is not None:
            raise ValueError(f"structure {index}: {fault}")
        try:
            descriptors(numbers)
        except ValueError as error:
            raise ValueError(f"structure {index}: {error}") from None


ADAPTFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")  # as `ADAPTForForces`

__all__ = ["ADAPTFeatureExtractor"]
