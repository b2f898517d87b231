"""
Our forces beside those of a MACE that was trained on the same split for the same processor time.

    python benchmarks/compare_mace.py RUN DATASET --mace-python MACE_ENVIRONMENT/bin/python --minutes 50

RUN is a folder that train.py has written; `--minutes` the processor time that its training took (as `time` prints it).
MACE trains for as long, on one thread, in an environment of its own that has mace-torch. Prints a table with one line
per config_type, on the test split, which neither has seen.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import ase.io
import datasets
import numpy as np
import torch

from modeling_adapt.cli.command_line import positive_number, run_command, whole_number
from modeling_adapt.data.load.batching import StructureDataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.structures import atoms_from_row
from modeling_adapt.evaluation.evaluate import evaluate_forces
from modeling_adapt.evaluation.metrics import ForceMetrics
from modeling_adapt.loading import load_model
from modeling_adapt.tables import format_table

WORKER = Path(__file__).with_name("mace_training.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="trained force model")
    parser.add_argument("dataset", help="data set with splits train and test")
    parser.add_argument("--mace-python", required=True, help="Python of an environment with mace-torch")
    parser.add_argument("--minutes", type=positive_number, required=True, help="processor time of MACE's training")
    parser.add_argument("--mace-forces", type=Path, help="file (.npy) for what MACE predicts; read where it exists")
    parser.add_argument("--threads", type=whole_number(1), default=1, help="of both (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, feature_extractor = load_model(arguments.run)
    train, test = (read_split(arguments.dataset, split, "energy_and_forces") for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as folder:
        output = arguments.mace_forces or Path(folder) / "forces.npy"
        if not output.is_file():
            files = [write_extxyz(train, Path(folder) / "train.xyz"), write_extxyz(test, Path(folder) / "test.xyz")]
            command = [arguments.mace_python, str(WORKER), *map(str, files), str(output), str(60 * arguments.minutes)]
            subprocess.run([*command, str(arguments.threads)], check=True)
        predicted = np.load(output)
    mace = forces_metrics(test, predicted)
    ours = evaluate_forces(model, feature_extractor, test).metrics
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"ADAPT: {parameters} parameters")
    keys = ("force_mae_mev_per_ang", "near_defect_mae_mev_per_ang")
    zero = ("zero_force_mae_mev_per_ang", "zero_force_near_defect_mae_mev_per_ang")
    groups = {**ours["by_config_type"], "all": ours}
    rows = []
    for name, group in groups.items():
        other = mace if name == "all" else mace["by_config_type"][name]
        values = [group.get(zero[0]), other.get(keys[0]), group.get(keys[0])]
        values += [group.get(zero[1]), other.get(keys[1]), group.get(keys[1])]
        rows.append([name, *("-" if value is None else f"{value:.1f}" for value in values)])
    columns = ["zero", "MACE", "ADAPT", "near: zero", "near: MACE", "near: ADAPT"]
    print(format_table(["config_type", *columns], rows))
    print("force MAE in meV/Å")


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


if __name__ == "__main__":
    sys.exit(run_command(main))
