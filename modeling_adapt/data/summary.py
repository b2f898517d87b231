"""What a data set holds, as a small table for the terminal."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..elements_adapt import SYMBOLS

_HEADER = ("file", "split", "structures", "trajectories", "energies", "atoms", "elements", "mean |F|", "config types")


def summary_table(rows_by_split: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """One line per file and split. `mean |F|` is the mean force component in meV/Å: the MAE of predicting zero forces."""
    parts: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for split, rows in rows_by_split.items():
        for row in rows:
            parts[row["source"].rsplit("#", 1)[0], split].append(row)
    lines = [_HEADER, *(_line(file, split, rows) for (file, split), rows in parts.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([*text, "mean |F|: mean force component in meV/Å, which is the error of predicting zero forces"])


def _line(file: str, split: str, rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    sizes = [len(row["atomic_numbers"]) for row in rows]
    elements = np.unique(np.concatenate([row["atomic_numbers"] for row in rows]))
    forces = [np.abs(row["forces"]).ravel() for row in rows if row["forces"] is not None]
    kinds = Counter(row["config_type"] or "-" for row in rows)
    return (
        file,
        split,
        str(len(rows)),
        str(len({row["trajectory"] for row in rows})),
        str(sum(row["energy"] is not None for row in rows)),
        str(sizes[0]) if min(sizes) == max(sizes) else f"{min(sizes)}-{max(sizes)}",
        " ".join(SYMBOLS[number] for number in elements),
        f"{1000 * np.concatenate(forces).mean():.1f}" if forces else "-",
        ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()),
    )
