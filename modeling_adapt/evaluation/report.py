"""What is printed and written of an evaluation: tables, also those of the model card, metrics.json and figures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_whole
from ..simulation.results import model_names
from ..tables import format_table
from .calibration import Calibration, calibration_plot
from .evaluate import Evaluation
from .physical_checks import checks_table
from .plots import ENERGIES, STRESSES, error_profile, parity_plot
from .rigidity import DoubtCheck

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
    "stress": [
        ("structures", "num_stresses", "d"),
        ("MAE", "stress_mae_gpa", ".3f"),
        ("RMSE", "stress_rmse_gpa", ".3f"),
        ("MAE of the pressure", "pressure_mae_gpa", ".3f"),
        ("zero-stress MAE", "zero_stress_mae_gpa", ".3f"),
    ],
}


def error_cells(lines: Mapping[str, Mapping[str, Any]], kind: str) -> tuple[list[str], list[list[str]]]:
    """
    Args:
        lines (`Mapping[str, Mapping[str, Any]]`): What each line is called, and its metrics.
        kind (`str`): A key of `COLUMNS`.

    Returns:
        `tuple[list[str], list[list[str]]]`: The headings of the columns that have a value somewhere, and per line its
        name and these values, "-" for none.
    """
    columns = [column for column in COLUMNS[kind] if any(column[1] in line for line in lines.values())]
    rows = [
        [name, *(format(line[metric], style) if metric in line else "-" for _, metric, style in columns)]
        for name, line in lines.items()
    ]
    return [heading for heading, _, _ in columns], rows


def by_config_type(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The metrics of each kind of structure, and of all."""
    groups = metrics.get("by_config_type", {})
    return {name or "(none)": group for name, group in groups.items()} | {"all": metrics}


def error_tables(evaluation: Evaluation, kind: str) -> str:
    """
    Tables by config_type and, of forces, by element where there are several, and by distance to the defect.

    Args:
        kind (`str`): `"forces"`, `"energy"` or `"stress"`.
    """
    metrics = evaluation.metrics
    parts = [_table("config_type", by_config_type(metrics), kind)]
    if len(elements := metrics.get("by_element", {})) > 1:
        parts.append(_table("element", elements, kind))
    if shells := metrics.get("by_defect_distance"):
        parts.append(_table("distance to the defect", shells, kind))
    units = {"energy": "energies in meV", "forces": "forces in meV/Å, of components", "stress": "stress in GPa"}
    parts.append(units[kind])
    return "\n".join(parts)


@dataclass
class Assessment:
    """
    All that is found of one model.

    Args:
        evaluations (`dict[str, Evaluation]`, defaults to `{}`):
            Some of `"energy"`, `"stress"` and `"forces"`; counts of structures and atoms are those of the last one
            that has them.
        calibration ([`Calibration`], *optional*): Of forces that are means, whose errors are those of `evaluations`.
        checks (`dict[str, float]`, defaults to `{}`): See [`physical_checks`].
        doubt ([`DoubtCheck`], *optional*): Of the energies of a model that tells how uncertain they are.
    """

    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    calibration: Calibration | None = None
    checks: dict[str, float] = field(default_factory=dict)
    doubt: DoubtCheck | None = None

    def text(self) -> str:
        """Tables to print."""
        parts = [error_tables(evaluation, kind) for kind, evaluation in self.evaluations.items()]
        if self.checks:
            parts.append(checks_table(self.checks))
        if self.calibration is not None:
            parts.append(self.calibration.summary())
        if self.doubt is not None:
            parts.append(self.doubt.summary())
        return "\n".join(parts)

    def write(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Writes metrics.json, in which `record` stands before the errors, and the figures."""
        errors, groups = dict[str, Any](), dict[str, dict[str, Any]]()
        for evaluation in self.evaluations.values():
            errors |= evaluation.metrics
            for name, group in evaluation.metrics["by_config_type"].items():
                groups[name] = groups.get(name, {}) | group
        spread = {} if self.calibration is None else self.calibration.metrics()
        checks: dict[str, Any] = {"physical_checks": self.checks} if self.checks else {}
        checks |= {} if self.doubt is None else {"doubt": self.doubt.metrics()}
        content = {**record, **spread, **checks, **errors, "by_config_type": groups}
        write_whole(folder / "metrics.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        self._draw(folder, _title(record))

    def _draw(self, folder: Path, title: str) -> None:
        if "forces" in self.evaluations:
            _draw_forces(self.evaluations["forces"], folder, title)
        if "energy" in self.evaluations:
            energy = self.evaluations["energy"]
            path = folder / ("energy_parity.png" if "forces" in self.evaluations else "parity.png")
            parity_plot(energy.predicted, energy.reference, path, ENERGIES, title, _trivial(energy, "energy"))
        if "stress" in self.evaluations:
            stress = self.evaluations["stress"]
            path = folder / "stress_parity.png"
            parity_plot(stress.predicted, stress.reference, path, STRESSES, title, _trivial(stress, "stress"))
        if self.calibration is not None:
            calibration_plot(self.calibration, folder / "calibration.png", title)


# Of each kind of evaluation: the error of a trivial prediction, in words and how it is written.
_TRIVIAL = {
    "forces": ("zero_force_mae_mev_per_ang", "zero forces: MAE {:.1f} meV/Å"),
    "energy": ("composition_baseline_mae_mev_per_atom", "composition only: MAE {:.2f} meV/atom"),
    "stress": ("zero_stress_mae_gpa", "zero stress: MAE {:.3f} GPa"),
}


def _trivial(evaluation: Evaluation, kind: str) -> str:
    metric, words = _TRIVIAL[kind]
    return words.format(evaluation.metrics[metric]) if metric in evaluation.metrics else ""


def _title(record: Mapping[str, Any]) -> str:
    """Of which model and which structures, without the folders that they lie in."""
    others = len(record.get("ensemble") or [])
    model = model_names([record.get("model", "")]) + (f" and {others} others, mean" if others else "")
    return f"{model}, {record.get('split')} of {model_names([record.get('dataset', '')])}"


def _draw_forces(forces: Evaluation, folder: Path, title: str) -> None:
    baseline = _trivial(forces, "forces")
    parity_plot(forces.predicted, forces.reference, folder / "parity.png", title=title, baseline=baseline)
    predicted, reference = forces.predicted.reshape(-1, 3), forces.reference.reshape(-1, 3)
    sizes = np.linalg.norm(reference, axis=1)
    if (sizes > 0).any():
        sizes = np.where(sizes > 0, sizes, np.nan)  # no place on a logarithmic axis
        label = "reference |F| of an atom (eV/Å)"
        error_profile(sizes, predicted, reference, folder / "error_by_force.png", label, True, title)
    distances = forces.nearest_defect
    if distances is not None and np.isfinite(distances).any():
        label = "distance to the nearest defect site (Å)"
        error_profile(distances, predicted, reference, folder / "error_by_distance.png", label, title=title)


def _table(what: str, lines: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    headings, rows = error_cells(lines, kind)
    return format_table([what, *headings], rows)
