"""Columns and sentences that several experiments share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .experiment import Row

MAE, SHARE, NEAR, FAR = "force MAE (meV/Å)", "of zero force", "near the defect", "far from it"
ERRORS = {MAE: ".1f", SHARE: ".0%", NEAR: ".1f"}


def error_cells(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The columns `ERRORS` of a table, from the metrics of a data set or of one of its groups."""
    error = metrics["force_mae_mev_per_ang"]
    zero = metrics["zero_force_mae_mev_per_ang"]
    return {MAE: error, SHARE: error / zero if zero else None, NEAR: metrics.get("near_defect_mae_mev_per_ang")}


def far_error(metrics: Mapping[str, Any]) -> float | None:
    """Force MAE in meV/Å of the atoms in the outermost shell around the defects."""
    shells = metrics.get("by_defect_distance") or {}
    return list(shells.values())[-1]["force_mae_mev_per_ang"] if shells else None


def change(before: float, after: float) -> str:
    """`after` against `before`, as in "+12 %"."""
    return f"{100 * (after / before - 1):+.0f} %"


def row_where(rows: Sequence[Row], **cells: Any) -> Row:
    """The row whose cells (heading -> value, blanks of the heading as _) are these."""
    wanted = {heading.replace("_", " "): value for heading, value in cells.items()}
    return next(row for row in rows if all(row[heading] == value for heading, value in wanted.items()))


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """p of the power law y = c x^p that fits best on a doubly logarithmic scale."""
    return float(np.polyfit(np.log(np.array(x, dtype=float)), np.log(np.array(y, dtype=float)), 1)[0])
