"""What a data set holds, as one short hash: two runs that name the same one have learned from the same rows."""

import hashlib

import datasets
import numpy as np

from .columns import flat_values, list_lengths, tables

_LISTS = ("atomic_numbers", "positions", "forces", "importance_weights", "defect_sites")
_ALWAYS_AS_LONG = ("cell", "pbc")


def content_hash(rows: datasets.Dataset) -> str:
    """SHA-256 over the structures and labels of `rows`, in order; where they are stored does not matter."""
    digest = hashlib.sha256(str(len(rows)).encode())
    for _, chunk in tables(rows.select_columns([*_LISTS, *_ALWAYS_AS_LONG, "energy"])):
        for name in _LISTS:
            digest.update(np.ascontiguousarray(list_lengths(chunk, name)).tobytes())
            digest.update(np.ascontiguousarray(flat_values(chunk, name)).tobytes())
        for name in _ALWAYS_AS_LONG:
            digest.update(np.ascontiguousarray(flat_values(chunk, name)).tobytes())
        digest.update(chunk["energy"].to_numpy().tobytes())
    return digest.hexdigest()[:16]
