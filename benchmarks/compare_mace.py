"""
Our energies and forces beside those of a MACE that was trained on the same split for the same processor time.

    python benchmarks/compare_mace.py RUN DATASET --mace-python MACE_ENVIRONMENT/bin/python --minutes 50

RUN is a folder that train.py has written; `--minutes` the processor time that its training took (as `time` prints it).
MACE trains for as long, on one thread, in an environment of its own that has mace-torch. Prints tables with one line
per config_type, on the split that is named, which neither has seen, and errors as shares of those of knowing nothing.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ase.io
import datasets
import numpy as np
import torch

from modeling_adapt.cli.command_line import positive_number, run_command, whole_number
from modeling_adapt.data.load.batching import StructureDataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.structures import atoms_from_row
from modeling_adapt.evaluation.evaluate import evaluate_energy, evaluate_forces
from modeling_adapt.evaluation.metrics import EnergyMetrics, ForceMetrics
from modeling_adapt.loading import load_model
from modeling_adapt.modeling_adapt import ADAPTForEnergy
from modeling_adapt.reference_energies import CompositionBaseline, compositions, fit_baseline
from modeling_adapt.tables import format_table

WORKER = Path(__file__).with_name("mace_training.py")


MEASURES = {  # title of a table, and what it shows: of knowing nothing, and of a model
    "force MAE in meV/Å": ("zero_force_mae_mev_per_ang", "force_mae_mev_per_ang"),
    "force RMSE in meV/Å": ("zero_force_rmse_mev_per_ang", "force_rmse_mev_per_ang"),
    "force MAE near the defects": ("zero_force_near_defect_mae_mev_per_ang", "near_defect_mae_mev_per_ang"),
    "energy MAE in meV/atom": ("composition_baseline_mae_mev_per_atom", "energy_mae_mev_per_atom"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="trained energy or force model")
    parser.add_argument("dataset", help="data set with a split train and that of --split")
    parser.add_argument("--split", default="test", help="what both predict (default test)")
    parser.add_argument("--mace-python", required=True, help="Python of an environment with mace-torch")
    parser.add_argument("--minutes", type=positive_number, required=True, help="processor time of MACE's training")
    parser.add_argument("--mace-predictions", type=Path, help="file (.npz) for these; read where it exists")
    parser.add_argument("--threads", type=whole_number(1), default=1, help="of both (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, feature_extractor = load_model(arguments.run)
    train, test = (read_split(arguments.dataset, split, "energy_and_forces") for split in ("train", arguments.split))
    with tempfile.TemporaryDirectory() as folder:
        output = arguments.mace_predictions or Path(folder) / "predictions.npz"
        if not output.is_file():
            files = [write_extxyz(train, Path(folder) / "train.xyz"), write_extxyz(test, Path(folder) / "test.xyz")]
            command = [arguments.mace_python, str(WORKER), *map(str, files), str(output), str(60 * arguments.minutes)]
            subprocess.run([*command, str(arguments.threads)], check=True)
        predicted = np.load(output)
        forces, energies = predicted["forces"], predicted["energy"]
    baseline = fit_baseline(train)
    mace = [forces_metrics(test, forces), energy_metrics(test, energies, baseline)]
    ours = [evaluate_forces(model, feature_extractor, test).metrics]
    if isinstance(model, ADAPTForEnergy):
        ours.append(evaluate_energy(model, feature_extractor, test, baseline=baseline).metrics)
    print(f"ADAPT: {sum(weight.numel() for weight in model.parameters())} parameters")
    groups = [(by_group(mace, name), by_group(ours, name), name) for name in [*mace[0]["by_config_type"], "all"]]
    for title, (nothing, error) in MEASURES.items():
        rows = [[name, *cells(theirs, own, nothing, error)] for theirs, own, name in groups]
        label = "composition" if "energy" in title else "zero"
        print(f"\n{title}\n{format_table(['config_type', label, 'MACE', 'ADAPT'], rows)}")


def by_group(metrics: Sequence[dict], name: str) -> dict:
    """Of forces and energies together."""
    return {
        key: value for one in metrics for key, value in (one if name == "all" else one["by_config_type"][name]).items()
    }


def cells(mace: dict, own: dict, nothing: str, error: str) -> list[str]:
    """What knowing nothing has, MACE and ours; with the shares of it behind."""
    zero = mace.get(nothing)
    shares = [
        "-" if (value := one.get(error)) is None else f"{value:.1f} ({value / zero:.0%})" if zero else f"{value:.1f}"
        for one in (mace, own)
    ]
    return ["-" if zero is None else f"{zero:.1f}", *shares]


def write_extxyz(rows: datasets.Dataset, path: Path) -> Path:
    structures = []
    for row in rows:
        atoms = atoms_from_row(row)
        atoms.calc = None
        atoms.arrays["REF_forces"] = np.array(row["forces"])
        atoms.info = {"REF_energy": row["energy"]}
        structures.append(atoms)
    ase.io.write(path, structures, format="extxyz")
    return path


def forces_metrics(rows: datasets.Dataset, predicted: np.ndarray) -> dict:
    """Of forces (all atoms, 3) in the order of the rows."""
    metrics, first = ForceMetrics(), 0
    structures = StructureDataset(rows)
    for index in range(len(rows)):
        item = structures[index]
        last = first + len(item["forces"])
        near, group = item["nearest_defect"][None], [rows[index]["config_type"]]
        metrics.update(predicted[None, first:last], item["forces"][None], near, group)
        first = last
    return metrics.compute()


def energy_metrics(rows: datasets.Dataset, predicted: np.ndarray, baseline: CompositionBaseline) -> dict:
    """Of energies in eV in the order of the rows."""
    metrics, counts = EnergyMetrics(), compositions(rows["atomic_numbers"])
    metrics.update(predicted, rows["energy"], counts.sum(axis=1), baseline.predict(counts), rows["config_type"])
    return metrics.compute()


if __name__ == "__main__":
    sys.exit(run_command(main))
