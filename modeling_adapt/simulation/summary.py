"""What relaxations came to: a table to print and a CSV file that grows by a line with each one."""

import csv
from collections.abc import Mapping
from pathlib import Path

from ..tables import format_table
from .relaxation import RelaxationResult

CSV_COLUMNS = (
    "name",
    "atoms",
    "status",
    "steps",
    "fmax_ev_per_ang",
    "largest_displacement_ang",
    "delta_q_amu_half_ang",
    "energy_change_ev",
    "findings",
)


class SummaryFile:
    """Starts a CSV file at `path`; `append` adds a relaxation at once, so that an interruption loses none."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._write("w", CSV_COLUMNS)

    def append(self, name: str, result: RelaxationResult) -> None:
        energy_change = "" if result.energy_change is None else result.energy_change
        numbers = (result.fmax, result.largest_displacement, result.delta_q, energy_change)
        findings = "; ".join(result.findings)
        self._write("a", (name, len(result.atoms), result.status, result.steps, *numbers, findings))

    def _write(self, mode: str, cells: tuple) -> None:
        with open(self._path, mode, encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(cells)


def summary_table(results: Mapping[str, RelaxationResult]) -> str:
    """One line a relaxation; below it, where and when each one left the trained region."""
    header = ["name", "atoms", "status", "steps", "fmax (eV/Å)", "moved (Å)", "ΔQ (amu^1/2 Å)", "ΔE (eV)"]
    rows = [
        [
            name,
            str(len(result.atoms)),
            result.status,
            str(result.steps),
            f"{result.fmax:.3f}",
            f"{result.largest_displacement:.3f}",
            f"{result.delta_q:.3f}",
            "-" if result.energy_change is None else f"{result.energy_change:.3f}",
        ]
        for name, result in results.items()
    ]
    findings = [f"{name}: {line}" for name, result in results.items() for line in result.findings]
    return "\n".join([format_table(header, rows), *findings])
