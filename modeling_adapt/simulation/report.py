"""The results of `relax.py` as one page that opens in any browser, without a network."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from ase import Atoms

from ..crystal.defect_sites import DefectSite, find_defects
from ..crystal.displacement import displacements
from ..crystal.minimum_image import shortest_images
from ..data.read.frames import read_frames
from ..errors import InputError, one_line
from ..files import write_whole
from .relaxation import DISPLACED
from .report_drawings import chart, view
from .results import BETWEEN, RECORD, Line, SummaryFile, trajectory_file

_TEMPLATE = Path(__file__).with_name("report_template.html")

# How each status is marked; "converged" is said of nothing else, whatever the file holds.
_STATUSES = {
    "converged": ("good", "✓", "converged"),
    "not converged": ("fair", "…", "not converged"),
    "left the trained region": ("poor", "✗", "left the trained region"),
}
_UNKNOWN = ("poor", "?", "unknown status")

_HEADERS = {
    "fmax_ev_per_ang": "fmax",
    "largest_displacement_ang": "moved",
    "delta_q_amu_half_ang": "ΔQ",
    "energy_ev": "E",
    "energy_change_ev": "ΔE",
    "energy_above_lowest_ev": "E − lowest",
    "formation_energy_ev": "formation energy",
    "forces_std_ev_per_ang": "force spread",
    "delta_q_to_lowest_amu_half_ang": "ΔQ to lowest",
}
# By the ending of the column, longer ones first.
_UNITS = {"_ev_per_ang": "eV/Å", "_amu_half_ang": "amu<sup>1/2</sup> Å", "_ev": "eV", "_ang": "Å"}
_OPTIONS = {"energy_model": "energy model", "steps": "most steps", "num_images": "symmetry images", "host": "host"}


class Trajectory(NamedTuple):
    """All steps of a relaxation.

    Attributes:
        start, end: the first and the last structure.
        fmax: (S,) largest force on an atom that is free to move at each step in eV/Å.
        energies: (S,) in eV; NaN where there are none.
    """

    start: Atoms
    end: Atoms
    fmax: np.ndarray
    energies: np.ndarray


def write_report(output: Path, title: str | None = None) -> Path:
    """
    Writes `report.html` into a folder of `relax.py`, which may be unfinished, and returns its path.

    Args:
        output: the folder.
        title (*optional*): heading of the page; by default it names the model.

    Raises:
        [`InputError`]: the folder has no summary, or one that cannot be read.
    """
    try:
        lines = _summary(output)
        record = _record(output)
        models = " + ".join(map(str, record.get("model", [])))
        page = {
            "title": escape(title or (f"Relaxations with {models}" if models else "Relaxations")),
            "facts": _facts(record, models if title else ""),
            "counts": _counts(lines, record.get("structures")),
            "table": _table(lines),
            "sections": "\n".join(_section(line, output, record.get("fmax")) for line in lines),
        }
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{output}: its tables are not as relax.py writes them ({one_line(error)})") from error
    path = output / "report.html"
    write_whole(path, Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(page))
    return path


def _summary(output: Path) -> list[Line]:
    """The lines of the summary, those of converged structures with what the ranking says of them."""
    path = output / "summary.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a folder that relax.py wrote")
    lines = SummaryFile(path).lines()
    ranks = _ranks(output / "ranking.csv")
    # What a summary says comes first, also in the order of the columns; a ranking is of converged structures alone.
    return [
        {**line, **ranks.get(line["name"], {}), **line} if line["status"] == "converged" else line for line in lines
    ]


def _ranks(path: Path) -> dict[str, Line]:
    """What the ranking says of each structure; nothing where there is none."""
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
    for row in rows:
        if row.get("same_as") == row["name"]:
            row["same_as"] = ""  # each is the same as itself
    return {row["name"]: row for row in rows}


def _record(output: Path) -> Mapping[str, Any]:
    path = output / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} is no record of relax.py")
    return record


# The head of the page ------------------------------------------------------------------------------------------------


def _facts(record: Mapping[str, Any], models: str) -> str:
    facts = {"model": models, "converged below": f"{record['fmax']} eV/Å" if "fmax" in record else ""}
    facts |= {label: str(record[name]) for name, label in _OPTIONS.items() if record.get(name) is not None}
    if potentials := record.get("chemical_potentials"):
        facts["chemical potentials"] = ", ".join(f"{element} {energy:g} eV" for element, energy in potentials)
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items() if text
    )


def _counts(lines: Sequence[Line], expected: int | None) -> str:
    """How many structures have each status; and how many of those that the command was given have none yet."""
    counts = Counter(_STATUSES.get(line["status"], _UNKNOWN) for line in lines)
    shown = [*_STATUSES.values(), *([_UNKNOWN] if _UNKNOWN in counts else [])]
    marks = [_mark(status, f"{counts[status]} ") for status in shown]
    if isinstance(expected, int) and expected > len(lines):
        marks.append(f'<span class="mark poor">? {expected - len(lines)} without a result</span>')
    return " ".join(marks)


def _mark(status: tuple[str, str, str], count: str = "") -> str:
    colour, sign, text = status
    return f'<span class="mark {colour}">{sign} {count}{text}</span>'


def _table(lines: Sequence[Line]) -> str:
    columns = [name for line in lines for name in line if name not in ("name", "status", "findings")]
    columns = [name for name in dict.fromkeys(columns) if any(line.get(name) for line in lines)]
    numbers = {name for name in columns if all(_is_number(line.get(name) or "0") for line in lines)}

    def style(name: str) -> str:
        return ' class="number"' if name in numbers else ""

    heads = "".join(
        f'<th scope="col"{style(name)}><button type="button">{_header(name)}</button></th>'
        for name in ("name", "status", *columns)
    )
    return f"<table><thead><tr>{heads}</tr></thead>{''.join(_row(line, columns) for line in lines)}</table>"


def _header(column: str) -> str:
    ending = next((ending for ending in _UNITS if column.endswith(ending)), "")
    text = escape(_HEADERS.get(column, column.removesuffix(ending).replace("_", " ")))
    return f"{text} <small>({_UNITS[ending]})</small>" if ending else text


def _row(line: Line, columns: Sequence[str]) -> str:
    """A body of its own for each structure, so that its findings go with it when rows are sorted."""
    name, status = line["name"], _STATUSES.get(line["status"], _UNKNOWN)
    cells = [
        f'<th scope="row"><a href="#{_anchor(name)}">{escape(name)}</a></th><td>{_mark(status)}</td>',
        *(_cell(line.get(column, "")) for column in columns),
    ]
    findings = _findings(line)
    below = f'<tr class="findings"><td colspan="{len(columns) + 2}">{findings}</td></tr>' if findings else ""
    return f'<tbody class="{status[0]}"><tr>{"".join(cells)}</tr>{below}</tbody>'


def _cell(text: str) -> str:
    if not _is_number(text):
        return f"<td>{escape(text)}</td>"
    shown = text if text.lstrip("-").isdigit() else f"{float(text):.3f}"
    return f'<td class="number" data-value="{float(text)}">{shown.replace("-", "−")}</td>'


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _findings(line: Line) -> str:
    findings = [finding for finding in line["findings"].split(BETWEEN) if finding]
    return f"<ul>{''.join(f'<li>{escape(finding)}</li>' for finding in findings)}</ul>" if findings else ""


def _anchor(name: str) -> str:
    return quote(name, safe="")


# One structure -------------------------------------------------------------------------------------------------------


def _section(line: Line, output: Path, fmax: float | None) -> str:
    name = line["name"]
    try:
        content = _plots_and_views(_read_trajectory(trajectory_file(name, output)), fmax)
    except InputError as error:
        content = f'<p class="note">There is nothing to draw: {escape(str(error))}</p>'
    status = _mark(_STATUSES.get(line["status"], _UNKNOWN))
    return (
        f'<details id="{_anchor(name)}"><summary><b>{escape(name)}</b> {status}</summary>'
        f'<div class="findings">{_findings(line)}</div>{content}</details>'
    )


def _read_trajectory(path: Path) -> Trajectory:
    if not path.is_file():
        raise InputError(f"the trajectory {path.name} is missing")
    start = end = None
    fmax, energies = [], []
    for frame in read_frames(path):
        start, end = frame if start is None else start, frame
        results = frame.calc.results if frame.calc is not None else {}
        fmax.append(np.linalg.norm(frame.get_forces(), axis=1).max() if "forces" in results else np.nan)
        energies.append(results.get("energy", np.nan))
    if start is None or end is None:
        raise InputError(f"the trajectory {path.name} is empty")
    if not (np.isfinite(start.positions).all() and np.isfinite(end.positions).all()):
        raise InputError(f"{path.name} has positions that are not finite")
    return Trajectory(start, end, np.array(fmax), np.array(energies, dtype=float))


def _plots_and_views(trajectory: Trajectory, fmax: float | None) -> str:
    start, end = trajectory.start, trajectory.end
    moved = displacements(start, end)
    steps = np.arange(len(trajectory.fmax), dtype=float)
    charts = [chart(steps, trajectory.fmax, "step", "fmax (eV/Å)", logarithmic=True, threshold=fmax)]
    if np.isfinite(trajectory.energies).any():
        change = trajectory.energies - trajectory.energies[0]
        charts.append(chart(steps, change, "step", "energy − start (eV)"))
    try:
        defects = find_defects(start)
        note = "" if defects else "There is no defect at the start, so nothing is drawn against the distance to it."
    except InputError as error:
        defects, note = [], f"Where the defect is, is not known: {error}."
    if defects:
        distances = _distances(start, defects)
        lengths = np.linalg.norm(moved, axis=1)
        labels = ("distance to the defect at the start (Å)", "displacement (Å)")
        charts.append(chart(distances, lengths, *labels, line=False, threshold=DISPLACED))
        kinds = Counter(defect.kind for defect in defects)
        note = "At the start: " + ", ".join(f"{n} × {kind}" if n > 1 else kind for kind, n in kinds.items()) + "."
    else:
        distances = np.zeros(len(start))
    return (
        f'<p class="note">{escape(note)}</p><div class="charts">{"".join(map(_figure, charts))}</div>'
        f"{view(start, moved, distances, defects)}"
    )


def _figure(chart: str) -> str:
    return f"<figure>{chart}</figure>"


def _distances(atoms: Atoms, defects: Sequence[DefectSite]) -> np.ndarray:
    """(N,) distance of each atom to the nearest defect in Å, by the minimum image."""
    vectors = [shortest_images(atoms.positions - site.position, atoms.cell.array, atoms.pbc) for site in defects]
    return np.linalg.norm(vectors, axis=2).min(axis=0)
