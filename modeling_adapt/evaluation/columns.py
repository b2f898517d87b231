"""Which errors stand in a table, of the terminal and of the model card."""

from collections.abc import Mapping
from typing import Any

# (heading, metric, format); a column whose metric no line has is left out.
_FORCES = [
    ("MAE", "force_mae_mev_per_ang", ".1f"),
    ("RMSE", "force_rmse_mev_per_ang", ".1f"),
    ("cosine", "force_cosine", ".3f"),
    ("slope", "force_slope", ".3f"),
    ("max error", "force_max_error_mev_per_ang", ".1f"),
    ("MAE near defect", "near_defect_mae_mev_per_ang", ".1f"),
]
COLUMNS = {
    "forces": [
        ("structures", "num_structures", "d"),
        *_FORCES,
        ("zero-force MAE", "zero_force_mae_mev_per_ang", ".1f"),
        ("zero-force MAE near defect", "zero_force_near_defect_mae_mev_per_ang", ".1f"),
    ],
    "models": [  # side by side
        *_FORCES,
        ("energy MAE per atom", "energy_mae_mev_per_atom", ".2f"),
        ("ms/structure", "ms_per_structure", ".1f"),
    ],
    "energy": [
        ("structures", "num_structures", "d"),
        ("MAE per atom", "energy_mae_mev_per_atom", ".2f"),
        ("RMSE per atom", "energy_rmse_mev_per_atom", ".2f"),
        ("MAE per structure", "energy_mae_mev_per_structure", ".1f"),
        ("mean-energy MAE per atom", "mean_baseline_mae_mev_per_atom", ".2f"),
        ("composition-only MAE per atom", "composition_baseline_mae_mev_per_atom", ".2f"),
    ],
}


def error_cells(lines: Mapping[str, Mapping[str, Any]], kind: str) -> tuple[list[str], list[list[str]]]:
    """
    Args:
        lines: what each line is called, and its metrics.
        kind: a key of `COLUMNS`.

    Returns:
        The headings of the columns that have a value somewhere, and per line its name and these values, "-" for none.
    """
    columns = [column for column in COLUMNS[kind] if any(column[1] in line for line in lines.values())]
    rows = [
        [name, *(format(line[metric], style) if metric in line else "-" for _, metric, style in columns)]
        for name, line in lines.items()
    ]
    return [heading for heading, _, _ in columns], rows
