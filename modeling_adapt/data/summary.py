"""What a data set holds, as a small table for the terminal."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..elements_adapt import SYMBOLS
from ..tables import format_table

_HEADER = ("file", "split", "structures", "trajectories", "energies", "atoms", "elements", "mean |F|")


def summary_table(rows_by_split: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """One line per file and split, then the config types.

    `mean |F|` is the mean size of a force component in meV/Å: the MAE of predicting zero forces.
    """
    parts: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    kinds: Counter[str] = Counter()
    for split, rows in rows_by_split.items():
        for row in rows:
            parts[row["source"].rsplit("#", 1)[0], split].append(row)
            kinds[row["config_type"] or "none given"] += 1
    table = format_table(_HEADER, [(file, split, *_cells(rows)) for (file, split), rows in parts.items()])
    return "\n".join(
        [
            table,
            "config types: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()),
            "mean |F|: of force components in meV/Å; the error of predicting zero forces",
        ]
    )


def _cells(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    sizes = [len(row["atomic_numbers"]) for row in rows]
    elements = np.unique(np.concatenate([row["atomic_numbers"] for row in rows]))
    forces = [np.abs(row["forces"]).ravel() for row in rows if row["forces"] is not None]
    return (
        str(len(rows)),
        str(len({row["trajectory"] for row in rows})),
        str(sum(row["energy"] is not None for row in rows)),
        str(sizes[0]) if min(sizes) == max(sizes) else f"{min(sizes)}-{max(sizes)}",
        " ".join(SYMBOLS[number] for number in elements),
        f"{1000 * np.concatenate(forces).mean():.1f}" if forces else "-",
    )
