"""Several models on the same structures in one table, ours beside those of others."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from tqdm import tqdm

from ..crystal.alignment import Aligner
from ..data.columns import describe_row
from ..data.defects.labelling import load_calculator
from ..data.load.batching import StructureDataset
from ..data.structures import atoms_from_row
from ..device import on_device
from ..errors import InputError, one_line
from ..files import write_whole
from ..hub_access import HUB_DATASETS, revision_for
from ..loading import load_model, require_forces
from ..simulation.prediction import predict
from ..tables import csv_text, format_table
from .evaluate import require_known_elements
from .metrics import EnergyMetrics, ForceMetrics
from .report import COLUMNS, error_cells

ZERO_FORCES = "zero forces"
_ANY_PICKLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True)
class Contender:
    """
    Args:
        name (`str`): As it was given.
        predict (`Callable[[Atoms], tuple[np.ndarray, float | None]]`):
            From a structure of N atoms to its forces (N, 3) in eV/Å, and its energy in eV or None.
        check (`Callable[[datasets.Dataset], None]`, *optional*):
            Raises [`InputError`] for rows that the model cannot know.
        reads_charge (`bool`, defaults to `False`): Whether it tells structures of other charges apart.
    """

    name: str
    predict: Callable[[Atoms], tuple[np.ndarray, float | None]]
    check: Callable[[datasets.Dataset], None] = lambda rows: None
    reads_charge: bool = False


def load_contender(name: str, device: torch.device, revision: str | None = None, subfolder: str = "") -> Contender:
    """
    A checkpoint folder or Hub id of ours, a MACE file that ends in .model, or an ASE calculator as `module:factory`.

    Raises:
        [`InputError`]: There is no such thing, it gives no forces, or mace-torch is not installed. A MACE file is a
            pickle, which runs code: open none that you would not run.
    """
    if (others := load_calculator_of_others(name, device)) is not None:
        return _of_calculator(name, others)
    model, feature_extractor = load_model(name, None, subfolder, revision_for(name, revision))
    require_forces(model)
    model = on_device(model, device)
    aligner = Aligner(None)  # as in `evaluate_forces`: structures as they are

    def forces_and_energy(atoms: Atoms) -> tuple[np.ndarray, float | None]:
        found = predict([model], feature_extractor, atoms, aligner=aligner)
        return found.forces, found.energy

    check = partial(require_known_elements, model, name=name)
    return Contender(name, forces_and_energy, check, model.config.reads_charge)


def is_of_others(name: str) -> bool:
    """Whether it is a MACE file that ends in .model or a `module:factory`; anything else is a model of ours."""
    return _is_mace(name) or (":" in name and not name.startswith(HUB_DATASETS) and not Path(name).exists())


def _is_mace(name: str) -> bool:
    return name.endswith(".model") and not Path(name).is_dir()


def load_calculator_of_others(name: str, device: torch.device) -> Calculator | None:
    """None for a model of ours, see [`is_of_others`]."""
    if not is_of_others(name):
        return None
    return _mace(name, device) if _is_mace(name) else load_calculator(name)


def zero_forces() -> Contender:
    """What costs nothing."""
    return Contender(ZERO_FORCES, lambda atoms: (np.zeros((len(atoms), 3)), None))


def compare(contenders: Sequence[Contender], rows: datasets.Dataset, progress: bool = True) -> dict[str, Any]:
    """
    Predicts one structure after the other, as a relaxation does, neighbour lists and all.

    Args:
        rows (`datasets.Dataset`): With forces; energies are looked at where there are any.

    Returns:
        `dict[str, Any]`: By name the metrics of [`ForceMetrics`] and, of those that give energies, of
        [`EnergyMetrics`], and `ms_per_structure`, the median time in ms.

    Raises:
        [`InputError`]: A model does not know an element, fails or predicts values that are not finite; the message
            names the row. All elements are looked at before anything is predicted.
    """
    for contender in contenders:
        contender.check(rows)
    return {contender.name: _evaluate(contender, rows, progress) for contender in contenders}


def _evaluate(contender: Contender, rows: datasets.Dataset, progress: bool) -> dict[str, Any]:
    metrics, energies = ForceMetrics(), EnergyMetrics()
    structures, times, has_energy = StructureDataset(rows), [], False
    for index in tqdm(
        range(len(rows)), desc=contender.name, unit=" structures", disable=None if progress else True, leave=False
    ):
        item, atoms = structures[index], atoms_from_row(rows[index])
        if index == 0:
            _predict(contender, rows, index, atoms)  # warms up
        began = time.perf_counter()
        forces, energy = _predict(contender, rows, index, atoms)
        times.append(1000 * (time.perf_counter() - began))
        labels, near, kinds = item["forces"][None], item["nearest_defect"][None], [rows[index]["config_type"]]
        metrics.update(forces[None], labels, near, kinds, item["atomic_numbers"][None])
        if energy is not None and np.isfinite(item["energy"]):
            has_energy = True
            energies.update([energy], [item["energy"]], [len(atoms)], None, kinds)
    found = _energy_errors(energies) if has_energy else {}
    return found | metrics.compute() | {"ms_per_structure": float(np.median(times))}


def _energy_errors(energies: EnergyMetrics) -> dict[str, float]:
    return {name: value for name, value in energies.compute().items() if name.startswith("energy_")}


def _predict(
    contender: Contender, rows: datasets.Dataset, index: int, atoms: Atoms
) -> tuple[np.ndarray, float | None]:
    """One structure; whatever a calculator raises, the error names the row."""
    try:
        forces, energy = contender.predict(atoms)
    except Exception as error:
        where, kind = describe_row(index, rows[index]["source"]), type(error).__name__
        raise InputError(f"{where}: {contender.name} fails on it: {kind}: {one_line(error)}") from error
    if forces.shape != (len(atoms), 3) or not np.isfinite(forces).all() or not np.isfinite(energy or 0.0):
        where = describe_row(index, rows[index]["source"])
        raise InputError(f"{where}: {contender.name} predicts values that are not finite")
    return forces, energy


def comparison_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per model, in meV/Å, meV and ms."""
    headings, rows = error_cells(found, "models")
    return format_table(["model", *headings], rows)


def write_comparison(folder: Path, found: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any]) -> None:
    """Writes comparison.json with all metrics, and comparison.csv with those of the table; units are in the names."""
    models = [{"model": name, **metrics} for name, metrics in found.items()]
    text = json.dumps({**record, "models": models}, indent=2, ensure_ascii=False)
    write_whole(folder / "comparison.json", text + "\n")
    columns = ["model", *(metric for _, metric, _ in COLUMNS["models"])]
    rows = [[line.get(name) for name in columns] for line in models]
    write_whole(folder / "comparison.csv", csv_text([columns, *rows]))


def _of_calculator(name: str, calculator: Calculator) -> Contender:
    gives_energy = "energy" in calculator.implemented_properties

    def forces_and_energy(atoms: Atoms) -> tuple[np.ndarray, float | None]:
        calculator.reset()
        forces = np.array(calculator.get_forces(atoms), dtype=np.float64)
        return forces, float(calculator.get_potential_energy(atoms)) if gives_energy else None

    return Contender(name, forces_and_energy)


def _mace(name: str, device: torch.device) -> Calculator:
    if not Path(name).is_file():
        raise InputError(f"{name}: no such file; name a MACE model, or a folder of ours")
    try:
        with _settings_kept():
            from mace.calculators import MACECalculator

            return MACECalculator(model_paths=name, device=str(device), default_dtype="float32")
    except ImportError as error:
        raise InputError(f"{name} is a MACE model, which needs mace-torch: pip install mace-torch") from error
    except Exception as error:  # of a damaged pickle, anything
        raise InputError(f"{name} cannot be loaded: {type(error).__name__}: {one_line(error)}") from error


@contextmanager
def _settings_kept() -> Iterator[None]:
    """MACE sets torch's default dtype, and that it may open any pickle, for the whole process."""
    dtype, pickles = torch.get_default_dtype(), os.environ.get(_ANY_PICKLE)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        os.environ.pop(_ANY_PICKLE, None)
        if pickles is not None:
            os.environ[_ANY_PICKLE] = pickles
