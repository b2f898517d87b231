"""Command: errors of a trained model on a data set, beside those of knowing nothing."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from modeling_adapt.command_line import CommandParser, finished_folder, require_empty_folder, run_command, whole_number
from modeling_adapt.data.reading import read_split
from modeling_adapt.device import available_device, on_device
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.calibration import Calibration, calibrate, calibration_plot
from modeling_adapt.evaluation.columns import error_cells
from modeling_adapt.evaluation.evaluate import (
    Evaluation,
    evaluate_energy,
    evaluate_forces,
    fit_baseline,
)
from modeling_adapt.evaluation.metrics import CompositionBaseline
from modeling_adapt.evaluation.plots import parity_plot
from modeling_adapt.hub.weights import weights_folder, weights_hash
from modeling_adapt.loading import load_model
from modeling_adapt.locations import is_local
from modeling_adapt.modeling_adapt import ADAPTForEnergy, gives_forces
from modeling_adapt.tables import format_table

EXAMPLE = """\
example:
  python evaluate.py runs/silicon/final datasets/silicon --split test --output results/silicon
  python evaluate.py runs/one datasets/silicon --ensemble runs/two runs/three --output results/three

Prints a table with one line per config_type. With --output it also writes
  metrics.json      every figure of the table, with the unit in its name, and the hash of the weights
  parity.png        predictions against references (energy_parity.png where a model gives forces and energies)
  calibration.png   with --ensemble or --num-images: error against the spread of the predictions
"""


def main(argv: list[str] | None = None) -> int | None:
    arguments = _parser().parse_args(argv)
    output = None if arguments.output is None else require_empty_folder(arguments.output)
    if arguments.num_images > 48:
        raise InputError("--num-images: a cube has 48 symmetry images")
    device = available_device(arguments.device)
    model, feature_extractor = load_model(arguments.model, None, arguments.subfolder, arguments.revision)
    model = on_device(model, device)
    evaluations: dict[str, Evaluation] = {}
    if isinstance(model, ADAPTForEnergy):
        rows = read_split(arguments.dataset, arguments.split, "energy")
        baseline = _baseline(arguments.dataset)
        evaluations["energy"] = evaluate_energy(model, feature_extractor, rows, arguments.batch_size, True, baseline)
    calibration = None
    if gives_forces(model):
        rows = read_split(arguments.dataset, arguments.split, "forces")
        if arguments.ensemble or arguments.num_images > 1:
            others = [
                on_device(load_model(name, type(model), "", None if is_local(name) else arguments.revision)[0], device)
                for name in arguments.ensemble
            ]
            calibration = calibrate([model, *others], feature_extractor, rows, arguments.num_images)
            evaluations["forces"] = calibration.evaluation
        else:
            evaluations["forces"] = evaluate_forces(model, feature_extractor, rows, arguments.batch_size)

    for kind, evaluation in evaluations.items():
        print(_table(evaluation.metrics, kind))
        print("energies in meV per atom" if kind == "energy" else "forces in meV/Å")
    if calibration is not None:
        found = calibration.metrics()
        print(
            f"spread of the forces on an atom: {found['spread_rms_mev_per_ang']:.1f} meV/Å, error of their mean "
            f"{found['error_rms_mev_per_ang']:.1f} meV/Å (root mean squares), rank correlation "
            f"{found['spread_error_spearman']:.2f}"
        )
    if arguments.split == "train":
        print("These structures were trained on: the errors say nothing about structures that were not.")
    if output is not None:
        _write(evaluations, calibration, output, arguments)
        print(f"metrics and figures saved to: {output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("Errors of a force or energy model on a data set, beside trivial baselines.", EXAMPLE)
    parser.add_argument("model", help="checkpoint folder or Hub id of a force or energy model")
    parser.add_argument("dataset", help="data set folder or Hub id")
    parser.add_argument(
        "--subfolder", default="", metavar="NAME", help="where in the model's folder or repository it is"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the models that are Hub ids (default: main)")
    parser.add_argument("--split", default="test", help="split to evaluate (default: test)")
    parser.add_argument("--output", metavar="DIR", help="new folder for metrics.json and parity.png")
    parser.add_argument("--batch-size", type=whole_number(1), default=16, help="structures at a time (default: 16)")
    parser.add_argument(
        "--ensemble", metavar="MODEL", nargs="+", default=[], help="more models of the kind, whose mean is evaluated"
    )
    parser.add_argument(
        "--num-images",
        type=whole_number(1),
        default=1,
        help="symmetry images to average over, at most 48 (default: 1)",
    )
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")
    return parser


def _baseline(dataset: str) -> CompositionBaseline | None:
    """Fitted on the training split; a data set without one, or without energies in it, has no baseline."""
    try:
        return fit_baseline(read_split(dataset, "train", "energy"))
    except InputError as error:
        print(f"no composition-only baseline: {error}", file=sys.stderr)
        return None


def _table(metrics: dict[str, Any], kind: str) -> str:
    lines = {name or "(none)": group for name, group in metrics["by_config_type"].items()} | {"all": metrics}
    headings, rows = error_cells(lines, kind)
    return format_table(["config_type", *headings], rows)


def _which(arguments: argparse.Namespace) -> dict[str, Any]:
    """By what the model is known again after its folder was renamed, or has other weights."""
    folder = weights_folder(arguments.model, arguments.subfolder, arguments.revision)
    known = {"weights_sha256": weights_hash(folder)}
    if is_local(arguments.model):
        known["model_path"] = str(folder.absolute())
    return {name: value for name, value in known.items() if value is not None}


def _write(
    evaluations: dict[str, Evaluation],
    calibration: Calibration | None,
    output: Path,
    arguments: argparse.Namespace,
) -> None:
    with finished_folder(output) as folder:
        record: dict[str, Any] = {"model": arguments.model, "dataset": arguments.dataset, "split": arguments.split}
        record |= {name: value for name in ("subfolder", "revision") if (value := getattr(arguments, name))}
        record |= _which(arguments)
        groups: dict[str, dict[str, Any]] = {}
        for evaluation in evaluations.values():
            record |= {name: value for name, value in evaluation.metrics.items() if name not in record}
            for name, group in evaluation.metrics["by_config_type"].items():
                groups[name] = groups.get(name, {}) | group
        if calibration is not None:
            record |= calibration.metrics() | {"ensemble": arguments.ensemble, "num_images": arguments.num_images}
            calibration_plot(calibration, folder / "calibration.png")
        text = json.dumps(record | {"by_config_type": groups}, indent=2, ensure_ascii=False)
        (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
        if "forces" in evaluations:
            caption = (
                f"MAE {record['force_mae_mev_per_ang']:.1f} meV/Å\n"
                f"zero forces {record['zero_force_mae_mev_per_ang']:.1f} meV/Å"
            )
            forces = evaluations["forces"]
            parity_plot(forces.predicted, forces.reference, folder / "parity.png", caption=caption)
        if "energy" in evaluations:
            path = folder / ("energy_parity.png" if "forces" in evaluations else "parity.png")
            caption = f"MAE {record['energy_mae_mev_per_atom']:.2f} meV/atom"
            energy = evaluations["energy"]
            parity_plot(energy.predicted, energy.reference, path, "energy", "eV/atom", caption)


if __name__ == "__main__":
    sys.exit(run_command(main))
