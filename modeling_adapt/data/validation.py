"""What the rows of a data set must be like. Ours are checked when they are made; a data set may come from anywhere."""

from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..elements_adapt import descriptors
from ..errors import InputError
from ..feature_extraction_adapt import cell_fault
from .columns import flat_values, list_column, tables

_PER_ATOM = ("positions", "forces", "importance_weights")


def require_valid_rows(rows: datasets.Dataset, where: str) -> None:
    """Checks the structure and the labels of every row with the columns of `STRUCTURE_FEATURES`; under 0.1 ms a row.

    Raises:
        InputError: naming `where`, the row and its source, for a missing structure or one without atoms, an unknown
            element, arrays of mismatched lengths, a number that is not finite, or a cell without volume.
    """
    for start, table in tables(rows):
        require_valid_table(table, where, start)


def require_valid_table(table: pa.Table, where: str, first: int) -> None:
    """[`require_valid_rows`] for a table whose rows are counted from `first`."""
    for index, problem in enumerate(_problems(table)):
        if problem is not None:
            source = table["source"][index].as_py() or "source unknown"
            raise InputError(f"{where}, row {first + index} ({source}): {problem}")


def _problems(table: pa.Table) -> list[str | None]:
    """What is wrong with each row, or None."""
    for name in ("atomic_numbers", "positions", "cell", "pbc"):
        missing = table[name].is_null().to_numpy()
        if missing.any():
            return [f"it has no {name}" if absent else None for absent in missing]
    columns = {name: list_column(table, name) for name in ("atomic_numbers", *_PER_ATOM, "defect_sites")}
    periodic = flat_values(table, "pbc").reshape(-1, 3, 1)
    cells = np.where(periodic, flat_values(table, "cell").reshape(-1, 3, 3), 0.0)
    energies = table["energy"].to_pylist()
    return [
        _problem({name: column[index] for name, column in columns.items()}, cells[index], energies[index])
        for index in range(len(table))
    ]


def _problem(arrays: dict[str, Any], cell: np.ndarray, energy: float | None) -> str | None:
    count = len(arrays["atomic_numbers"])
    if count == 0:
        return "there are no atoms"
    try:
        descriptors(arrays["atomic_numbers"])
    except ValueError as error:
        return str(error)
    for name in _PER_ATOM:
        if arrays[name] is not None and len(arrays[name]) != count:
            return f"{len(arrays[name])} {name} for {count} atoms"
    for name, values in (arrays | {"cell": cell, "energy": energy}).items():
        if values is not None and not np.isfinite(values).all():
            return f"{name} holds a value that is not a finite number"
    if (weights := arrays["importance_weights"]) is not None and (weights < 0).any():
        return "an importance weight is negative"
    return cell_fault(cell)
