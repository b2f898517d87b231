"""`example.json`: one structure and what the model says about it, so that anybody can see that a copy works."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ase.build import bulk
from transformers import PreTrainedModel

from ..data.load.reading import parquet_splits
from ..data.structures import atoms_from_row
from ..errors import InputError, one_line
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..modeling_adapt import forces_of, gives_forces

_COLUMNS = ["atomic_numbers", "positions", "cell", "pbc", "config_type", "trajectory", "source"]
_ROWS = 1000  # of which the smallest structure is taken


def example_structure(dataset: str | Path | None) -> dict[str, Any]:
    """
    The smallest of the first structures of a data set that is published too, of its validation split where that has
    any; without a data set 8 atoms of silicon off their sites, which show that a copy computes the same and nothing
    more.

    Raises:
        [`InputError`]: `dataset` is no data set of structures, or has none.
    """
    if dataset is None:
        atoms, source = bulk("Si", cubic=True), "silicon off its lattice sites, not from the training data"
        atoms.rattle(0.05, seed=0)
    else:
        table = _first_rows(dataset)
        sizes = [len(numbers) for numbers in table["atomic_numbers"]]
        row = table.slice(int(np.argmin(sizes)), 1).to_pylist()[0]
        atoms, source = atoms_from_row(row), row["source"]
    return {
        "atomic_numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.round(6).tolist(),
        "cell": atoms.cell.array.round(9).tolist(),
        "pbc": atoms.pbc.tolist(),
        "source": source,
        "units": {"positions": "Å", "forces": "eV/Å", "energy": "eV"},
    }


def _first_rows(dataset: str | Path) -> pa.RecordBatch:
    splits = parquet_splits(dataset)
    try:
        for path in [*splits.get("validation", []), *sum(splits.values(), [])]:
            for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=_COLUMNS):
                if len(batch):
                    return batch
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged: {one_line(error)}") from error
    raise InputError(f"{dataset} holds no structures")


def with_answer(
    structure: dict[str, Any], model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor
) -> dict[str, Any]:
    """`structure` with the `forces` and the `energy` that the model gives.

    Raises:
        [`InputError`]: the model cannot read the structure, or gives what is not finite.
    """
    answer: dict[str, Any] = {}
    try:
        with _one_thread(), torch.no_grad():
            inputs = feature_extractor(structure)
            output = forces_of(model, **inputs) if gives_forces(model) else model(**inputs)
    except ValueError as error:
        raise InputError(f"the model cannot read the example ({structure['source']}): {error}") from error
    for name, decimals in (("forces", 7), ("energy", 6)):
        if output.get(name) is not None:
            values = output[name][0].double().numpy()
            if not np.isfinite(values).all():
                raise InputError("the model predicts values that are not finite; it must not be published")
            answer[name] = values.round(decimals).tolist()
    return structure | answer


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums come in the same order at every run, so that an example that is written again is the same file."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
