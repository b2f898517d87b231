"""What relaxations came to: a CSV file that grows by a line with each one, and a table of it to print."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import InputError
from ..files import write_whole
from ..tables import format_table
from .relaxation import RelaxationResult

CSV_COLUMNS = (
    "name",
    "atoms",
    "status",
    "steps",
    "fmax_ev_per_ang",
    "largest_displacement_ang",
    "displaced_atoms",
    "delta_q_amu_half_ang",
    "energy_ev",
    "energy_change_ev",
    "forces_std_ev_per_ang",
    "findings",
)

Line = Mapping[str, str]
BETWEEN = " | "  # findings, which are sentences with commas and semicolons


class SummaryFile:
    """
    The CSV file at `path`. Lines are added whole, so that an interruption loses none and several processes can share
    it; what a kill left of a line is dropped when the file is opened again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self) -> None:
        """Writes the header; of a file that exists, keeps the lines that are whole."""
        lines = self.lines() if self.path.is_file() else []
        write_whole(self.path, _csv([CSV_COLUMNS, *(tuple(line[name] for name in CSV_COLUMNS) for line in lines)]))

    def names(self) -> set[str]:
        """The structures whose relaxation has ended; none where there is no file yet."""
        return {line["name"] for line in self.lines()} if self.path.is_file() else set()

    def append(self, name: str, result: RelaxationResult) -> None:
        energy = None if result.energy_change is None else result.atoms.get_potential_energy()
        moved = (result.largest_displacement, result.displaced_atoms, result.delta_q)
        numbers = (result.fmax, *moved, energy, result.energy_change, result.forces_std)  # None is an empty cell
        findings = BETWEEN.join(result.findings)
        cells = (name, len(result.atoms), result.status, result.steps, *numbers, findings)
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write(_csv([cells]))
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from error

    def lines(self) -> list[Line]:
        """One mapping from `CSV_COLUMNS` to text for each relaxation that has ended, in the order of their ends."""
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        rows = list(csv.DictReader(io.StringIO(whole, newline="")))
        if rows and set(rows[0]) - {None} != set(CSV_COLUMNS):
            raise InputError(f"{self.path} is no summary of relax.py")
        return [row for row in rows if None not in row and None not in row.values()]


def _csv(rows: Iterable[tuple]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def summary_table(lines: Iterable[Line]) -> str:
    """One line a relaxation; below it, where and when each one left the trained region."""
    lines = list(lines)
    columns = {
        "fmax_ev_per_ang": "fmax (eV/Å)",
        "largest_displacement_ang": "moved (Å)",
        "delta_q_amu_half_ang": "ΔQ (amu^1/2 Å)",
        "energy_change_ev": "ΔE (eV)",
        "forces_std_ev_per_ang": "spread (eV/Å)",
    }
    numbers = [name for name in columns if name != "forces_std_ev_per_ang" or any(line[name] for line in lines)]
    header = ["name", "atoms", "status", "steps", *(columns[name] for name in numbers)]
    rows = [
        [
            *(line[name] for name in ("name", "atoms", "status", "steps")),
            *(f"{float(line[name]):.3f}" if line[name] else "-" for name in numbers),
        ]
        for line in lines
    ]
    findings = [
        f"{line['name']}: {finding}" for line in lines for finding in line["findings"].split(BETWEEN) if finding
    ]
    return "\n".join([format_table(header, rows), *findings])
