"""
The results of `relax.py` and `neb.py`, each as one page that opens in any browser without a network:
`templates/report.html.jinja`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from ase import Atoms
from ase.utils.forcecurve import fit_images

from ..crystal.minimum_image import displacements
from ..data.read.frames import read_frames
from ..errors import InputError, one_line
from ..files import write_whole
from ..tables import csv_rows, plus_minus
from .neb import path_file
from .relaxation import DISPLACED
from .report_drawings import FRAME, NEAR, PAGES, Scene, chart, embedded, progress_charts
from .results import BETWEEN, Line, SummaryFile, model_names, read_record, result_file, trajectory_file
from .tree import defect_of, distortion_of


class Mark(NamedTuple):
    """How a status is marked."""

    colour: str
    sign: str
    text: str


# "converged" is said of nothing else, whatever the file holds.
_STATUSES = {
    "converged": Mark("good", "✓", "converged"),
    "not converged": Mark("fair", "…", "not converged"),
    "left the trained region": Mark("poor", "✗", "left the trained region"),
}
_UNKNOWN = Mark("poor", "?", "unknown status")

_HEADERS = {
    "fmax_ev_per_ang": "fmax",
    "largest_displacement_ang": "moved",
    "delta_q_amu_half_ang": "ΔQ",
    "energy_ev": "E",
    "energy_change_ev": "ΔE",
    "energy_above_lowest_ev": "E − lowest",
    "formation_energy_ev": "formation energy",
    "forces_std_ev_per_ang": "force spread",
    "atom_doubt": "doubt of an atom",
    "delta_q_to_lowest_amu_half_ang": "ΔQ to lowest",
    "barrier_ev": "barrier",
    "reverse_barrier_ev": "barrier back",
}
# What is asked first stands first, where no screen is too narrow for it.
_FIRST = ("rank", "formation_energy_ev", "energy_above_lowest_ev", "same_as", "barrier_ev", "reverse_barrier_ev")
# Written beside what it is the uncertainty of.
_UNCERTAINTY = {
    "energy_ev": "energy_uncertainty_ev",
    "energy_above_lowest_ev": "energy_above_lowest_uncertainty_ev",
    "formation_energy_ev": "formation_energy_uncertainty_ev",
    "barrier_ev": "barrier_uncertainty_ev",
    "reverse_barrier_ev": "reverse_barrier_uncertainty_ev",
    "energy_change_ev": "energy_change_uncertainty_ev",
}
# By the ending of the column, longer ones first.
_UNITS = {"_ev_per_ang": "eV/Å", "_amu_half_ang": "amu<sup>1/2</sup> Å", "_ev": "eV", "_ang": "Å"}
_NOT_SHOWN = ("start", "end", "path_ang", "energies_ev")  # of a path: names of files, and what is drawn
_OPTIONS = {"energy_model": "energy model", "steps": "most steps", "num_images": "symmetry images", "host": "host"}


class Column(NamedTuple):
    """Of the table: what it is called, its unit as HTML, and whether all that stands in it is numbers."""

    heading: str
    unit: str = ""
    is_number: bool = False


class Trajectory(NamedTuple):
    """All steps of a relaxation.

    Args:
        start, end (`Atoms`): The first and the last structure.
        fmax (`np.ndarray` of shape `(S,)`): Largest force on an atom that is free to move at each step in eV/Å.
        energies (`np.ndarray` of shape `(S,)`): In eV; NaN where there are none.
    """

    start: Atoms
    end: Atoms
    fmax: np.ndarray
    energies: np.ndarray


def write_report(output: Path, title: str | None = None) -> Path:
    """
    Writes `report.html` into a folder of `relax.py`, which may be unfinished, and returns its path.

    Args:
        output (`Path`): The folder.
        title (`str`, *optional*): Heading of the page; by default it names the model.

    Raises:
        [`InputError`]: The folder has no summary, or one that cannot be read.
    """
    try:
        lines, record = _summary(output), read_record(output)
        models = model_names(record.get("model", []))
        expected = record.get("structures")
        columns = _columns(lines)
        page = {
            "title": title or (f"Relaxations with {models}" if models else "Relaxations"),
            "facts": _facts(record, models if title else ""),
            "counts": _counts(lines),
            "missing": expected - len(lines) if isinstance(expected, int) else 0,
            "note": "Only those that converged are relaxed. Of the others, the numbers are those of the last step.",
            "columns": [Column("name"), Column("status"), *columns.values()],
            "distortions": _distortions(lines),
            "heading": "Structures",
            "structures": [_structure(line, list(columns), output, record.get("fmax")) for line in lines],
        }
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{output}: its tables are not as relax.py writes them ({one_line(error)})") from error
    return _write_page(output, page)


def write_path_report(output: Path, record: Mapping[str, Any], paths: Sequence[Mapping[str, Any]]) -> Path:
    """
    Writes `report.html` into a folder of `neb.py`, and returns its path.

    Args:
        output (`Path`): The folder.
        record (`Mapping[str, Any]`): Of the command.
        paths (`Sequence[Mapping[str, Any]]`): As [`read_paths`] reads them.
    """
    lines = [
        {name: _text(value) for name, value in path.items() if name not in _NOT_SHOWN}
        | {"findings": BETWEEN.join(path["findings"])}
        for path in paths
    ]
    columns = _columns(lines)
    page = {
        "title": f"Barriers with {model_names(record['model'])}",
        "facts": _facts(record, ""),
        "counts": _counts(lines),
        "missing": 0,
        "note": "Only a path that converged tells a barrier. Of the others, the numbers are those of the last step.",
        "columns": [Column("name"), Column("status"), *columns.values()],
        "distortions": [],
        "heading": "Paths",
        "structures": [
            _listed(line, list(columns)) | _drawn_path(path_file(line["name"], output, "extxyz")) for line in lines
        ],
    }
    return _write_page(output, page)


def _write_page(output: Path, page: Mapping[str, Any]) -> Path:
    path = output / "report.html"
    template = PAGES.get_template("report.html.jinja")
    write_whole(
        path, template.render(page, displaced=DISPLACED, near=f"{NEAR:g}", frame=FRAME, embedded=embedded) + "\n"
    )
    return path


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _summary(output: Path) -> list[Line]:
    """The lines of the summary, those of converged structures with what the ranking says of them."""
    path = output / "summary.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a folder that relax.py wrote")
    lines = SummaryFile(path).lines()
    ranks = _ranks(output / "ranking.csv")
    # What a summary says comes first, also in the order of the columns; a ranking is of converged structures alone.
    joined = [
        {**line, **ranks.get(line["name"], {}), **line} if line["status"] == "converged" else line for line in lines
    ]
    order = list(ranks)
    return sorted(joined, key=lambda line: order.index(line["name"]) if line.get("rank") else len(order))


def _ranks(path: Path) -> dict[str, Line]:
    """What the ranking says of each structure; nothing where there is none."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    rows: list[Any] = [row for row in csv_rows(text) if None not in row and None not in row.values()]
    for row in rows:
        if row.get("same_as") == row["name"]:
            row["same_as"] = ""  # each is the same as itself
    return {row["name"]: row for row in rows}


def _facts(record: Mapping[str, Any], models: str) -> dict[str, str]:
    facts = {"model": models, "converged below": f"{record['fmax']} eV/Å" if "fmax" in record else ""}
    if record.get("finish", np.inf) < record.get("fmax", 0):
        facts["then relaxed on to"] = f"{record['finish']} eV/Å"
    facts |= {label: str(record[name]) for name, label in _OPTIONS.items() if record.get(name) is not None}
    for label in ("energy model", "host"):
        facts |= {label: model_names([facts[label]])} if label in facts else {}
    if potentials := record.get("chemical_potentials"):
        facts["chemical potentials"] = ", ".join(f"{element} {energy:g} eV" for element, energy in potentials)
    return {name: text for name, text in facts.items() if text}


def _counts(lines: Sequence[Line]) -> dict[Mark, int]:
    """How many structures have each status."""
    counts = Counter(_STATUSES.get(line["status"], _UNKNOWN) for line in lines)
    return {mark: counts[mark] for mark in (*_STATUSES.values(), _UNKNOWN) if mark in counts or mark != _UNKNOWN}


def _columns(lines: Sequence[Line]) -> dict[str, Column]:
    """Those of the tables that have a value somewhere."""
    hidden = ("name", "status", "findings", *_UNCERTAINTY.values())
    names = dict.fromkeys(name for line in lines for name in line if name not in hidden)
    names = dict.fromkeys([*(name for name in _FIRST if name in names), *names])
    columns = {}
    for name in names:
        values = [value for line in lines if (value := line.get(name))]
        if values:
            ending = next((ending for ending in _UNITS if name.endswith(ending)), "")
            heading = _HEADERS.get(name, name.removesuffix(ending).replace("_", " "))
            is_number = all(_number(value) is not None for value in values)
            columns[name] = Column(heading, _UNITS.get(ending, ""), is_number)
    return columns


def _distortions(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Of each defect whose distortions were relaxed, the energies of what they came to."""
    defects: dict[str, list[Line]] = {}
    for line in lines:
        if line["status"] == "converged" and line["energy_ev"] and distortion_of(line["name"]) is not None:
            defects.setdefault(defect_of(line["name"], line.get("formula", "")), []).append(line)
    drawn = ((defect, _distortion_chart(group)) for defect, group in defects.items())
    return [{"caption": f"{defect}{told}", "chart": one} for defect, (one, told) in drawn if len(one["points"]) > 1]


def _distortion_chart(group: Sequence[Line]) -> tuple[dict[str, Any], str]:
    """With what its dashed line is."""
    energies = {distortion_of(line["name"]): float(line["energy_ev"]) for line in group}
    lowest = min(energies.values())
    shares = sorted(share for share in energies if isinstance(share, float))
    x, y = 100 * np.array(shares), np.array([energies[share] - lowest for share in shares])
    level = round(energies["Unperturbed"] - lowest, 3) if "Unperturbed" in energies else None
    labels = ("bond distortion (%)", "energy above the lowest (eV)")
    drawn = chart(x, y, *labels, dotted=True, threshold=level, height=0.05)
    return drawn, "" if level is None else " (dashed: Unperturbed)"


def _structure(line: Line, columns: Sequence[str], output: Path, fmax: float | None) -> dict[str, Any]:
    """What the page says of one relaxation."""
    name = line["name"]
    try:
        trajectory = _read_trajectory(trajectory_file(name, output))
        shown = _drawn(trajectory, fmax, _doubt(result_file(name, output), trajectory))
    except InputError as error:
        shown = {"note": f"There is nothing to draw: {error}", "view": None}
    return shown | _listed(line, columns)


def _listed(line: Line, columns: Sequence[str]) -> dict[str, Any]:
    """The line of the table."""
    name = line["name"]
    return {
        "name": name,
        "anchor": quote(name, safe=""),
        "mark": _STATUSES.get(line["status"], _UNKNOWN),
        "cells": [_cell(line.get(column, ""), line.get(_UNCERTAINTY.get(column, ""), "")) for column in columns],
        "findings": [finding for finding in line["findings"].split(BETWEEN) if finding],
    }


def _cell(text: str, uncertainty: str = "") -> tuple[str, float | None]:
    """What is shown, and the number by which rows are sorted."""
    value = _number(text)
    if value is None:
        return text, None
    shown = text if text.lstrip("-").isdigit() else f"{round(value, 3) + 0.0:.3f}"
    deviation = _number(uncertainty)
    return shown.replace("-", "−") + plus_minus(deviation), value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read_trajectory(path: Path) -> Trajectory:
    if not path.is_file():
        raise InputError(f"the trajectory {path.name} is missing")
    start = end = None
    fmax, energies = [], []
    for frame in read_frames(path, kind="extxyz"):
        start, end = frame if start is None else start, frame
        results = frame.calc.results if frame.calc is not None else {}
        fmax.append(np.linalg.norm(frame.get_forces(), axis=1).max() if "forces" in results else np.nan)
        energies.append(results.get("energy", np.nan))
    if start is None or end is None:
        raise InputError(f"the trajectory {path.name} is empty")
    if not (np.isfinite(start.positions).all() and np.isfinite(end.positions).all()):
        raise InputError(f"{path.name} has positions that are not finite")
    return Trajectory(start, end, np.array(fmax), np.array(energies, dtype=float))


def _drawn(trajectory: Trajectory, fmax: float | None, doubt: np.ndarray | None) -> dict[str, Any]:
    """Charts, the structures before and after, and what is said of the defects."""
    scene = Scene.of(trajectory.start)
    moved = displacements(trajectory.start, trajectory.end)
    charts = progress_charts(trajectory.fmax, trajectory.energies, fmax) + _moved_chart(scene, moved)
    return {"note": scene.note, "charts": charts, "view": scene.view(moved, doubt)}


def _drawn_path(path: Path) -> dict[str, Any]:
    """As [`_drawn`], of the images of a path; atoms that pass a boundary are not wrapped there."""
    images = list(read_frames(path, kind="extxyz"))
    start, top = images[0], int(np.argmax([image.get_potential_energy() for image in images]))
    moved, saddle = (image.positions - start.positions for image in (images[-1], images[top]))
    fit, scene = fit_images(images), Scene.of(start)
    curve = np.array(fit.fit_path), np.array(fit.fit_energies)
    labels = ("length of the path (Å)", "energy above the start (eV)")
    charts = [chart(np.array(fit.path), np.array(fit.energies), *labels, dotted=True, curve=curve)]
    charts += _moved_chart(scene, moved)
    return {"note": scene.note, "charts": charts, "view": scene.view(moved, saddle=saddle)}


def _moved_chart(scene: Scene, moved: np.ndarray) -> list[dict[str, Any]]:
    """None where there is no defect to measure distances from."""
    if not scene.defects:
        return []
    labels = ("distance to the defect at the start (Å)", "displacement (Å)")
    return [chart(scene.distances, np.linalg.norm(moved, axis=1), *labels, line=False, threshold=DISPLACED)]


def _doubt(path: Path, trajectory: Trajectory) -> np.ndarray | None:
    """That of the atoms of the last structure, where the model told it."""
    if not path.is_file():
        return None
    (relaxed,) = read_frames(path, "-1", "extxyz")
    doubt = relaxed.arrays.get("atom_doubt")
    return doubt if len(relaxed) == len(trajectory.end) and doubt is not None and np.isfinite(doubt).all() else None
