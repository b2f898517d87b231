"""Columns and sentences that several experiments share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modeling_adapt.evaluation.breakdown import SHELLS

from .experiment import Row

DATA, MAE, SHARE, NEAR, FAR = "data", "force MAE (meV/Å)", "of zero force", "near the defect", "far from it"
CHANCE = 0.11  # by which errors differ between trainings that differ in nothing that matters (see `descriptors.py`)
HOPELESS = 0.9  # of the error of predicting zero; above it a model has learned next to nothing
ERRORS = {MAE: ".1f", SHARE: ".0%", NEAR: ".1f"}


def grouped(rows: Sequence[Row], *headings: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows that have the same cells under these headings, in the order of the table."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[heading] for heading in headings), []).append(row)
    return groups


def force_cells(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The columns `ERRORS` of a table, from the metrics of a data set or of one of its groups."""
    error = metrics["force_mae_mev_per_ang"]
    zero = metrics["zero_force_mae_mev_per_ang"]
    return {MAE: error, SHARE: error / zero if zero else None, NEAR: metrics.get("near_defect_mae_mev_per_ang")}


def far_error(metrics: Mapping[str, Any]) -> float | None:
    """Force MAE in meV/Å of the atoms in the outermost shell around the defects."""
    shell = metrics.get("by_defect_distance", {}).get(list(SHELLS)[-1])
    return None if shell is None else shell["force_mae_mev_per_ang"]


def change(before: float | None, after: float | None) -> str:
    """`after` against `before`, as in "+12 %"."""
    return "?" if not before or after is None else f"{100 * (after / before - 1):+.0f} %"


def number(value: float | None, style: str = ".1f") -> str:
    """As in a table, where there may be none."""
    return "-" if value is None else format(value, style)


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """p of the power law y = c x^p that fits best on a doubly logarithmic scale."""
    return float(np.polyfit(np.log(np.array(x, dtype=float)), np.log(np.array(y, dtype=float)), 1)[0])
