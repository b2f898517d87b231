"""What a row must be like, whether it was just made or comes from anywhere: all rows of a table at once.

Whether something is wrong is asked of whole columns; which row, which atom and in what words, only where something is.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..elements_adapt import DESCRIPTORS, SYMBOLS, descriptors
from ..errors import InputError
from ..neighbours_adapt import cell_fault, thin_cells
from .columns import describe_row, flat_values, list_lengths, tables

PER_ATOM = {"positions": "position", "forces": "force", "importance_weights": "importance weight"}  # what each holds
LARGEST_STRUCTURE = 1_000_000  # atoms
ALLOW_EXTREMES = "ADAPT_ALLOW_EXTREMES"  # variable of the environment; what is larger than these is damage otherwise
_LARGEST = {"positions": (1e5, "Å"), "forces": (1e3, "eV/Å")}
_LARGEST_ENERGY = 1e6  # eV per atom, more than that of all electrons of the heaviest
_LISTS: dict[str, tuple[int, ...]] = {
    "atomic_numbers": (-1,),
    "positions": (-1, 3),
    "forces": (-1, 3),
    "stress": (-1, 3),
    "importance_weights": (-1,),
    "defect_sites": (-1, 3),
}
_STRESS = pa.list_(pa.list_(pa.float64(), 3))
_REQUIRED = ("atomic_numbers", "positions", "cell", "pbc")


@dataclass(frozen=True)
class FlatRows:
    """B rows, each of their lists as one array.

    Args:
        values (`Mapping[str, np.ndarray]`):
            Of each list the elements of all rows, one after the other: (E,), or (E, 3) of vectors.
        lengths (`Mapping[str, np.ndarray]`): Of each list (B,) the number of elements in each row; 0 where it is null.
        present (`Mapping[str, np.ndarray]`): Of each list (B,) where it is not null.
        cells (`np.ndarray` of shape `(B, 3, 3)`): In Å, with zero rows along directions that are not periodic.
        energies (`np.ndarray` of shape `(B,)`): In eV; 0 where they are null.
    """

    values: Mapping[str, np.ndarray]
    lengths: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]
    cells: np.ndarray
    energies: np.ndarray

    @classmethod
    def of_table(cls, table: pa.Table) -> "FlatRows":
        """Rows with the columns of `STRUCTURE_FEATURES`, in whose lists nothing is null."""
        periodic = flat_values(table, "pbc").reshape(-1, 3, 1)
        return cls(
            values={name: flat_values(table, name).reshape(shape) for name, shape in _LISTS.items()},
            lengths={name: list_lengths(table, name) for name in _LISTS},
            present={name: table[name].is_valid().to_numpy() for name in _LISTS},
            cells=np.where(periodic, flat_values(table, "cell").reshape(-1, 3, 3), 0.0),
            energies=table["energy"].fill_null(0.0).to_numpy(),
        )

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "FlatRows":
        """One row, as arrays or None."""
        lists = {name: np.zeros(0) if row[name] is None else row[name] for name in _LISTS}
        return cls(
            values=lists,
            lengths={name: np.array([len(values)]) for name, values in lists.items()},
            present={name: np.array([row[name] is not None]) for name in _LISTS},
            cells=np.where(row["pbc"][:, None], row["cell"], 0.0)[None],
            energies=np.array([0.0 if row["energy"] is None else row["energy"]]),
        )

    def rows_with(self, name: str, bad: np.ndarray) -> np.ndarray:
        """(B,) the rows that have any of the bad elements of a list, (E,) or (E, 3) as its values."""
        rows = np.zeros(len(self.cells), dtype=bool)
        if bad.any():
            owners = np.repeat(np.arange(len(rows)), self.lengths[name])
            rows[owners[bad if bad.ndim == 1 else bad.any(axis=1)]] = True
        return rows

    def row(self, name: str, row: int) -> np.ndarray:
        """The elements of a list in one row."""
        end = int(self.lengths[name][: row + 1].sum())
        return self.values[name][end - self.lengths[name][row] : end]


def require_valid_rows(rows: datasets.Dataset, where: str) -> None:
    """Checks the structure and the labels of every row with the columns of `STRUCTURE_FEATURES`; a few µs a row.

    Raises:
        [`InputError`]: Naming `where`, the row and its source, for a missing structure or one without atoms, an
            unknown element, arrays of mismatched lengths, a number that is not finite, or a cell without volume.
    """
    for start, table in tables(rows):
        require_valid_table(table, where, start)


def require_valid_table(table: pa.Table, where: str, first: int) -> None:
    """[`require_valid_rows`] for a table whose rows are counted from `first`."""
    if "stress" not in table.column_names:  # as in data sets of earlier versions
        table = table.append_column("stress", pa.nulls(len(table), _STRESS))
    fault = _missing(table) or first_fault(FlatRows.of_table(table))
    if fault is not None:
        row, problem = fault
        raise InputError(f"{where}, {describe_row(first + row, table['source'][row].as_py())}: {problem}")


def first_fault(rows: FlatRows) -> tuple[int, str] | None:
    """The first row that is no valid structure, and what is wrong with it; None where all are valid."""
    found = [(int(bad.argmax()), words) for bad, words in _checks(rows) if bad.any()]
    if not found:
        return None
    row, words = min(found, key=lambda fault: fault[0])
    return row, words(row)


def _missing(table: pa.Table) -> tuple[int, str] | None:
    """What a structure lacks; a list with holes has no length that means anything."""
    for name in _REQUIRED:
        if table[name].null_count:
            return int(table[name].is_null().to_numpy().argmax()), f"it has no {name}"
    for name in (*_LISTS, "cell", "pbc"):
        column = table[name].combine_chunks()
        if _has_holes(column):
            first = next(row for row in range(len(column)) if _has_holes(column.slice(row, 1)))
            return first, f"{name} holds a value that is missing"
    return None


def _has_holes(array: pa.Array) -> bool:
    """Whether something inside of lists is null; null lists themselves are none of it."""
    while pa.types.is_nested(array.type):
        array = array.flatten()
        if array.null_count:
            return True
    return False


def _checks(rows: FlatRows) -> Iterator[tuple[np.ndarray, Callable[[int], str]]]:
    """Which rows (B,) have a fault, and a function that words it for one of them."""
    numbers, atoms = rows.values["atomic_numbers"], rows.lengths["atomic_numbers"]
    yield atoms == 0, lambda row: "there are no atoms"
    yield atoms > LARGEST_STRUCTURE, lambda row: f"{atoms[row]:,} atoms; at most {LARGEST_STRUCTURE:,} are read"
    yield rows.rows_with("atomic_numbers", (numbers < 1) | (numbers >= len(DESCRIPTORS))), partial(_element, rows)
    for name in PER_ATOM:
        yield rows.present[name] & (rows.lengths[name] != atoms), partial(_length, rows, name)
    for name in PER_ATOM:
        yield rows.rows_with(name, ~np.isfinite(rows.values[name])), partial(_number, rows, name)
    yield rows.present["stress"] & (rows.lengths["stress"] != 3), lambda row: "the stress is no matrix of 3 x 3"
    infinite_stress = rows.rows_with("stress", ~np.isfinite(rows.values["stress"]))
    yield infinite_stress, lambda row: "the stress holds a value that is not a finite number"
    infinite_site = rows.rows_with("defect_sites", ~np.isfinite(rows.values["defect_sites"]))
    yield infinite_site, lambda row: "defect_sites holds a value that is not a finite number"
    yield ~np.isfinite(rows.cells).all(axis=(1, 2)), lambda row: "cell holds a value that is not a finite number"
    yield ~np.isfinite(rows.energies), lambda row: "the energy is not a finite number"
    negative = rows.rows_with("importance_weights", rows.values["importance_weights"] < 0)
    yield negative, lambda row: "an importance weight is negative"
    if not os.environ.get(ALLOW_EXTREMES):
        for name, (largest, unit) in _LARGEST.items():
            extreme = rows.rows_with(name, np.abs(rows.values[name]) > largest)
            yield extreme, partial(_extreme, rows, name, largest, unit)
        yield np.abs(rows.energies) > _LARGEST_ENERGY * atoms, partial(_extreme_energy, rows)
    yield thin_cells(rows.cells), lambda row: str(cell_fault(rows.cells[row]))


def _element(rows: FlatRows, row: int) -> str:
    try:
        descriptors(rows.row("atomic_numbers", row))
    except ValueError as error:
        return str(error)
    raise AssertionError("descriptors for an element that has none")


def _length(rows: FlatRows, name: str, row: int) -> str:
    return f"{rows.lengths[name][row]} {name} for {rows.lengths['atomic_numbers'][row]} atoms"


def _extreme(rows: FlatRows, name: str, largest: float, unit: str, row: int) -> str:
    values = np.abs(rows.row(name, row)).max(axis=-1)
    atom = int(values.argmax())
    return f"the {PER_ATOM[name]} of atom {atom} has a component of {values[atom]:.1e} {unit}, {_too_large(largest)}"


def _extreme_energy(rows: FlatRows, row: int) -> str:
    return f"an energy of {rows.energies[row]:.1e} eV, {_too_large(_LARGEST_ENERGY)} per atom"


def _too_large(largest: float) -> str:
    return f"damage or another unit, unless {ALLOW_EXTREMES}=1 is set, which lets it be more than {largest:.0e}"


def _number(rows: FlatRows, name: str, row: int) -> str:
    values = rows.row(name, row)
    atom = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
    symbol = SYMBOLS[rows.row("atomic_numbers", row)[atom]]  # of other rows this is not asked: they come first
    return f"the {PER_ATOM[name]} of atom {atom} ({symbol}) is not a finite number"
