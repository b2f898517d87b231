"""
What it costs to go from one structure to another: a nudged elastic band with a climbing image (Henkelman, Uberuaga and
Jonsson, J. Chem. Phys. 113, 9901 (2000); Henkelman and Jonsson, ibid., 9978 (2000)) of ASE, all images of which are
predicted at once.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.mep import NEB
from ase.optimize import FIRE
from ase.utils.forcecurve import fit_images

from ..crystal.minimum_image import displacements, largest_displacement
from ..crystal.structure_match import match_atoms
from ..crystal.trained_region import TrainingDomain
from ..errors import InputError
from ..feature_extraction_adapt import charge_of
from ..figures import COLUMN, GREY, MODEL, drawn
from ..figures import caption as captioned
from ..files import whole_file, write_whole
from ..modeling_adapt import forces_of
from ..tables import csv_text, format_table, plus_minus
from .doubt import DifferenceDoubt
from .prediction import input_dtype
from .relaxation import Status

BEFORE_CLIMBING = 0.5  # eV/Å; until here no image climbs, as the highest may not yet be the one at the saddle
SAME_STRUCTURE = 0.1  # Å; no atom moves farther between two relaxations to one minimum
_CELL_TOLERANCE = 1e-3  # Å
_DIP = 0.02  # eV; a minimum between the ends that is deeper is told

# Of a path in JSON and in the table of all; those of energies have an uncertainty each.
_ENERGIES = ("barrier", "reverse_barrier", "energy_change")


@dataclass(frozen=True)
class Energy:
    """
    A difference of energies.

    Args:
        value (`float`): In eV.
        uncertainty (`float`, *optional*): Its standard deviation in eV, where the model tells it.
    """

    value: float
    uncertainty: float | None

    def __str__(self) -> str:
        return f"{round(self.value, 3) + 0.0:.3f}" + plus_minus(self.uncertainty)


@dataclass(frozen=True)
class MigrationPath:
    """
    Args:
        images (`Sequence[Atoms]`): From the start to the end, with their energies in eV and forces in eV/Å.
        status (`Status`): "converged" only if the band has, and no image is outside of the trained region.
        steps (`int`): Number of steps of the band.
        fmax (`float`): Largest force of the band on an atom in eV/Å.
        barrier (`Energy`): Of the highest image above the start.
        reverse_barrier (`Energy`): Of the highest image above the end.
        energy_change (`Energy`): Of the end above the start.
        findings (`tuple[str, ...]`): Why it is not to be believed, or not the whole path, one line each.
    """

    images: Sequence[Atoms]
    status: Status
    steps: int
    fmax: float
    barrier: Energy
    reverse_barrier: Energy
    energy_change: Energy
    findings: tuple[str, ...]

    @property
    def energies(self) -> np.ndarray:
        """(images,) in eV above the start."""
        energies = np.array([image.get_potential_energy() for image in self.images])
        return energies - energies[0]


def matched_end(start: Atoms, end: Atoms, keep_order: bool = False) -> tuple[Atoms, int]:
    """
    `end` with the atoms in the order of those of `start`, and how many are in another place for it.

    Args:
        keep_order (`bool`, defaults to `False`): Each atom is the one of the same number, however far it moves.

    Raises:
        [`InputError`]: There is no path between them: other atoms, another cell or charge, or the same structure.
    """
    ours, theirs = start.get_chemical_formula(), end.get_chemical_formula()
    if ours != theirs:
        raise InputError(f"the start is {ours} and the end {theirs}; a path is between the same atoms")
    same_cell = np.allclose(start.cell.array, end.cell.array, atol=_CELL_TOLERANCE)
    if not (same_cell and np.array_equal(start.pbc, end.pbc)):
        raise InputError("start and end are in different cells; a path is in one cell")
    first, last = (charge_of(one) or 0.0 for one in (start, end))
    if first != last:
        raise InputError(f"the start has a charge of {first:+g} and the end one of {last:+g}; a path is in one charge")
    if keep_order and not np.array_equal(start.numbers, end.numbers):
        raise InputError("the order of the atoms is not kept: elements are in another order; do without --keep-order")
    found = end if keep_order else match_atoms(start, end)
    if largest_displacement(start, found) < SAME_STRUCTURE:
        hint = "" if keep_order else "; if atoms of one element change places, give --keep-order"
        raise InputError(f"start and end are one structure: no atom moves by {SAME_STRUCTURE} Å{hint}")
    return found, int((found.positions != end.positions).any(axis=1).sum())


def find_path(
    start: Atoms,
    end: Atoms,
    calculator: BaseCalculator,
    images: int = 7,
    fmax: float = 0.05,
    steps: int = 500,
    on_step: Callable[[int, float], None] | None = None,
) -> MigrationPath:
    """
    The path of least energy from `start` to `end`, which are minima and have their atoms in one order. It begins as
    that of the image dependent pair potential (Smidstrup et al., J. Chem. Phys. 140, 214106 (2014)); once it is smooth
    the highest image climbs to the saddle.

    Args:
        calculator (`BaseCalculator`): Any ASE calculator with energies of which the forces are the gradient.
        images (`int`, defaults to `7`): Between the ends; an odd number has one at the top of a symmetric path.
        fmax (`float`, defaults to `0.05`): The band has converged when no atom feels more than this, in eV/Å.
        steps (`int`, defaults to `500`): Most steps to take.
        on_step (`Callable[[int, float], None]`, *optional*):
            Called with the number of steps taken and the largest force in eV/Å.
    """
    band = _Band(_first_path(start, end, images), calculator)
    taken, largest = 0, np.inf
    for band.climb, limit in ((False, max(BEFORE_CLIMBING, fmax)), (True, fmax)):
        optimiser = FIRE(band, logfile=None)
        for _ in optimiser.irun(fmax=limit, steps=steps - taken):
            largest = float(np.linalg.norm(band.get_forces(), axis=1).max())
            if on_step is not None:
                on_step(taken + optimiser.nsteps, largest)
            if not np.isfinite(largest):
                raise InputError("the model predicts values that are not finite on the path; start from other ends")
        taken += optimiser.nsteps
    return _described(band.images, calculator, largest < fmax, taken, largest)


def _first_path(start: Atoms, end: Atoms, count: int) -> list[Atoms]:
    bare = Atoms(start.numbers, start.positions, cell=start.cell, pbc=start.pbc, constraint=start.constraints)
    bare.info = {name: start.info[name] for name in ("charge",) if name in start.info}
    images = [bare.copy() for _ in range(count + 2)]
    # Across boundaries, so that a viewer shows atoms where they come from.
    images[-1].set_positions(start.positions + displacements(start, end), apply_constraint=False)
    NEB(images, method="improvedtangent").interpolate("idpp", mic=True, apply_constraint=False)
    return images


class _Band(NEB):
    """That of ASE, whose images are predicted together before it asks for them one by one."""

    def __init__(self, images: list[Atoms], calculator: BaseCalculator) -> None:
        super().__init__(images, method="improvedtangent")
        self.calculator = calculator
        self._predict()

    def get_forces(self) -> np.ndarray:
        self._predict()
        return super().get_forces()

    def _predict(self) -> None:
        stale = [image for image in self.images if image.calc is None or image.calc.check_state(image)]
        for image, energy, forces in zip(stale, *predict_together(self.calculator, stale), strict=True):
            self.freeze_results_on_image(image, energy=energy, forces=forces)


def predict_together(calculator: Any, images: Sequence[Atoms]) -> tuple[list[float], list[np.ndarray]]:
    """
    Energies in eV and forces (N, 3) in eV/Å of structures of as many atoms each: in one pass by an [`ADAPTCalculator`]
    that reads structures as they are, one after the other by any other calculator.
    """
    if not images:
        return [], []
    domain = getattr(calculator, "domain", None)
    as_they_are = getattr(calculator, "num_images", 0) == 1 and (domain is None or domain.alignment is None)
    if not (as_they_are and calculator.conservative):
        each = [[calculator.get_property(name, image) for name in ("energy", "forces")] for image in images]
        return [energy for energy, _ in each], [forces.copy() for _, forces in each]
    read = [calculator.as_read(image) for image in images]
    energies, forces = [], []
    for model in calculator.models:
        inputs = calculator.feature_extractor(read, dtype=input_dtype(model)).to(model.device)
        output = forces_of(model, **inputs)
        energies.append(output.energy.cpu().double().numpy())
        forces.append(output.forces.cpu().double().numpy())
    return np.mean(energies, axis=0).tolist(), list(np.mean(forces, axis=0))


def _described(images: list[Atoms], calculator: Any, converged: bool, steps: int, fmax: float) -> MigrationPath:
    """A band that has come to its end, in numbers."""
    energies = np.array([image.get_potential_energy() for image in images])
    top = int(energies.argmax())
    doubt = DifferenceDoubt.by(calculator)
    readings = {} if doubt is None else {place: doubt.read(images[place]) for place in {0, top, len(images) - 1}}

    def above(high: int, low: int) -> Energy:
        last = len(images) - 1
        high, low = (place % (last + 1) for place in (high, low))
        uncertainty = None if doubt is None else float(doubt.deviation(readings[high] - readings[low]))
        return Energy(float(energies[high] - energies[low]), uncertainty)

    outside = _outside(images, getattr(calculator, "domain", None))
    status: Status = "converged" if converged else "not converged"
    return MigrationPath(
        *(images, "left the trained region" if outside else status, steps, fmax),
        *(above(top, 0), above(top, -1), above(-1, 0)),
        (*outside, *_shape_findings(energies)),
    )


def _outside(images: Sequence[Atoms], domain: TrainingDomain | None) -> list[str]:
    """Of each kind of finding the first; a path goes far from where it starts."""
    findings: dict[str, str] = {}
    for number, image in enumerate(images if domain is not None else []):
        for kind, line in domain.findings(image, None, image.get_forces(apply_constraint=False)).items():  # type: ignore[union-attr]
            findings.setdefault(kind, f"image {number}: {line}")
    return list(findings.values())


def _shape_findings(energies: np.ndarray) -> list[str]:
    """Where a path is not one way over one saddle."""
    if energies.argmax() in (0, len(energies) - 1):
        return ["there is no saddle between the ends: the higher one is the top of the path"]
    dips = [
        number
        for number in range(1, len(energies) - 1)
        if energies[number] < min(energies[number - 1], energies[number + 1]) - _DIP
    ]
    return [f"image {number} is near a minimum between the ends: relax it and make two paths" for number in dips]


def path_file(name: str, output: Path, ending: str) -> Path:
    """Where a path is: `extxyz` has its images, `png` the plot, and `json`, which is written last, the numbers."""
    return output / f"{name}.path.{ending}"


def write_path(name: str, path: MigrationPath, ends: tuple[str, str], output: Path, caption: str = "") -> None:
    """Writes the files of [`path_file`], each as a whole."""
    with whole_file(path_file(name, output, "extxyz")) as unfinished:
        ase.io.write(unfinished, list(path.images), format="extxyz")
    plot_path(path, path_file(name, output, "png"), caption)
    lengths = fit_images(path.images).path
    record: dict[str, Any] = {"name": name, "start": ends[0], "end": ends[1], "images": len(path.images) - 2}
    record |= {"status": path.status, "steps": path.steps, "fmax_ev_per_ang": path.fmax}
    for kind in _ENERGIES:
        energy: Energy = getattr(path, kind)
        record |= {f"{kind}_ev": energy.value, f"{kind}_uncertainty_ev": energy.uncertainty}
    record |= {"path_ang": list(map(float, lengths)), "energies_ev": path.energies.tolist(), "findings": path.findings}
    write_whole(path_file(name, output, "json"), json.dumps(record, indent=2) + "\n")


def read_paths(names: Sequence[str], output: Path) -> list[dict[str, Any]]:
    """The records of those paths that have been written, in the order of `names`."""
    found = [path_file(name, output, "json") for name in names]
    return [json.loads(path.read_text(encoding="utf-8")) for path in found if path.is_file()]


def write_barriers(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file with a line for each record of [`read_paths`]."""
    listed = ("path_ang", "energies_ev", "findings")
    columns = [name for name in records[0] if name not in listed] if records else []
    write_whole(path, csv_text([columns, *([record[name] for name in columns] for record in records)]))


def barrier_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The table to print, with the findings below."""
    header = ["path", "images", "status", "steps", "fmax (eV/Å)", "barrier (eV)", "back (eV)", "E end - start (eV)"]
    rows = [
        [
            *(str(record[name]) for name in ("name", "images", "status", "steps")),
            f"{record['fmax_ev_per_ang']:.3f}",
            *(str(Energy(record[f"{kind}_ev"], record[f"{kind}_uncertainty_ev"])) for kind in _ENERGIES),
        ]
        for record in records
    ]
    findings = [f"{record['name']}: {line}" for record in records for line in record["findings"]]
    return "\n".join([format_table(header, rows), *findings])


def plot_path(path: MigrationPath, file: Path, caption: str = "") -> None:
    """
    Draws the energy along the path: the images, and between them the curve that their forces say.

    Args:
        file (`Path`): Image file; the ending decides the format.
        caption (`str`, defaults to `""`): Above the figure, such as the name of the model.
    """
    fit, top = fit_images(path.images), int(path.energies.argmax())
    said = f"barrier {path.barrier} eV, {path.status}, n = {len(path.images)} images"
    bar = "bar: one standard deviation of the barrier" if path.barrier.uncertainty else ""
    with drawn(file, COLUMN, 2.7) as (figure, (axes,)):
        axes.axhline(0, color=GREY, linewidth=0.7, linestyle=":", zorder=0)
        axes.plot(fit.fit_path, fit.fit_energies, color=MODEL.colour)
        axes.plot(fit.path, path.energies, **MODEL.line() | {"linestyle": ""})
        axes.errorbar(fit.path[top], path.energies[top], yerr=path.barrier.uncertainty, color=MODEL.colour, zorder=0)
        axes.margins(x=0.04, y=0.1)
        axes.set_xlabel("length of the path (Å)")
        axes.set_ylabel("energy above the start (eV)")
        captioned(figure, caption, said, bar)


__all__ = ["Energy", "MigrationPath", "find_path", "matched_end", "plot_path", "predict_together"]
