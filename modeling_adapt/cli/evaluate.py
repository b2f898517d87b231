"""Command: errors of a trained model on a data set, beside those of knowing nothing, or of other models."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ..data.load.reading import pinned_revision, read_split
from ..device import available_device, on_device
from ..errors import InputError
from ..evaluation.calibration import Calibration, calibrate, calibration_plot
from ..evaluation.compare import compare, comparison_table, load_contender, write_comparison, zero_forces
from ..evaluation.evaluate import (
    Evaluation,
    evaluate_energy,
    evaluate_forces,
    fit_baseline,
    fit_mean_baseline,
    require_known_elements,
)
from ..evaluation.metrics import CompositionBaseline, MeanBaseline
from ..evaluation.physical_checks import checks_table, chosen_structures, host_in, model_forces, physical_checks
from ..evaluation.report import error_tables, write_evaluation
from ..evaluation.symmetry_checks import Forces
from ..files import finished_folder, require_empty_folder
from ..hub_access import is_local
from ..loading import load_model, require_forces, weights_folder, weights_hash
from ..modeling_adapt import ADAPTForEnergy, gives_forces
from .command_line import CommandParser, run_command, whole_number

EXAMPLE = """\
example:
  python evaluate.py runs/silicon datasets/silicon --split test --output results/silicon
  python evaluate.py runs/one datasets/silicon --ensemble runs/two runs/three --output results/three
  python evaluate.py runs/one datasets/silicon --compare runs/two MACE.model my_module:my_calculator

Prints tables by config_type, element and distance to the defect, and what physics demands of the forces. With --output
it also writes
  metrics.json            every figure of the tables, with the unit in its name, and the hash of the weights
  parity.png              predictions against references (energy_parity.png where a model gives forces and energies)
  error_by_distance.png   errors of the forces against the distance to the defect
  error_by_force.png      and against the reference force
  calibration.png         with --ensemble or --num-images: error against the spread of the predictions
With --compare it prints one table of all models, and --output has comparison.json and comparison.csv.
"""


def main(argv: list[str] | None = None) -> int | None:
    arguments = _parser().parse_args(argv)
    output = None if arguments.output is None else require_empty_folder(arguments.output)
    arguments.dataset_revision = pinned_revision(arguments.dataset, arguments.dataset_revision)
    if arguments.num_images > 48:
        raise InputError("--num-images: a cube has 48 symmetry images")
    device = available_device(arguments.device)
    return (_compare if arguments.compare else _evaluate)(arguments, output, device)


def _evaluate(arguments: argparse.Namespace, output: Path | None, device: torch.device) -> int:
    model, feature_extractor = load_model(arguments.model, None, arguments.subfolder, arguments.revision)
    model = on_device(model, device)
    evaluations: dict[str, Evaluation] = {}
    record: dict[str, Any] = {}
    calibration, checks = None, {}
    if isinstance(model, ADAPTForEnergy):
        rows = read_split(arguments.dataset, arguments.split, "energy", arguments.dataset_revision)
        require_known_elements(model, rows, arguments.model)
        evaluations["energy"] = evaluate_energy(
            model,
            feature_extractor,
            rows,
            arguments.batch_size,
            True,
            *_baselines(arguments.dataset, arguments.dataset_revision),
        )
    if gives_forces(model):
        rows = read_split(arguments.dataset, arguments.split, "forces", arguments.dataset_revision)
        require_known_elements(model, rows, arguments.model)
        gradient = _energy_gradient(arguments, device, rows)
        models = [model, *(_load(name, arguments, device, rows, type(model)) for name in arguments.ensemble)]
        if len(models) > 1 or arguments.num_images > 1:
            calibration = calibrate(models, feature_extractor, rows, arguments.num_images)
            evaluations["forces"] = calibration.evaluation
            record = calibration.metrics() | {"ensemble": arguments.ensemble, "num_images": arguments.num_images}
        else:
            evaluations["forces"] = evaluate_forces(model, feature_extractor, rows, arguments.batch_size)
        if arguments.checks:
            structures = chosen_structures(rows, arguments.checks)
            checks = physical_checks(
                model_forces(models, feature_extractor, arguments.num_images),
                structures,
                host_in(structures, model.config.training_domain),
                gradient,
            )
            record["physical_checks"] = checks
    elif arguments.energy_model:
        raise InputError(f"--energy-model: {arguments.model} gives no forces to hold against its gradient")
    for kind, evaluation in evaluations.items():
        print(error_tables(evaluation, kind))
    if checks:
        print(checks_table(checks))
    if calibration is not None:
        print(_spread(calibration))
        if "energy" in evaluations:
            print(f"forces are of the mean, energies of {arguments.model} alone")
    if arguments.split == "train":
        print("These structures were trained on: the errors say nothing about structures that were not.")
    if output is not None:
        with finished_folder(output) as folder:
            write_evaluation(folder, evaluations, _header(arguments) | _which(arguments) | record)
            if calibration is not None:
                calibration_plot(calibration, folder / "calibration.png")
        print(f"metrics and figures saved to: {output}")
    return 0


def _compare(arguments: argparse.Namespace, output: Path | None, device: torch.device) -> int:
    if arguments.ensemble or arguments.num_images > 1 or arguments.energy_model:
        raise InputError("--compare is of single models: leave out --ensemble, --num-images and --energy-model")
    names = [arguments.model, *arguments.compare]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--compare: {twice[0]} is named twice")
    rows = read_split(arguments.dataset, arguments.split, "forces", arguments.dataset_revision)
    contenders = [
        load_contender(name, device, arguments.revision, arguments.subfolder if name == arguments.model else "")
        for name in names
    ]
    found = compare([*contenders, zero_forces()], rows)
    print(comparison_table(found))
    print(
        f"forces in meV/Å, times of one structure at a time on {device}; energies in meV as they are: one with "
        "another zero than the data is wrong by that much"
    )
    if output is not None:
        with finished_folder(output) as folder:
            write_comparison(folder, found, _header(arguments) | {"device": str(device)})
        print(f"comparison saved to: {output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("Errors of a force or energy model on a data set, beside trivial baselines.", EXAMPLE)
    parser.add_argument("model", help="checkpoint folder or Hub id of a force or energy model")
    parser.add_argument("dataset", help="data set folder or Hub id")
    parser.add_argument(
        "--subfolder", default="", metavar="NAME", help="where in the model's folder or repository it is"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the models that are Hub ids (default: main)")
    parser.add_argument("--dataset-revision", metavar="REVISION", help="of a data set on the Hub (default: main)")
    parser.add_argument("--split", default="test", help="split to evaluate (default: test)")
    parser.add_argument("--output", metavar="DIR", help="new folder for metrics.json and the figures")
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
    parser.add_argument(
        "--compare",
        metavar="MODEL",
        nargs="+",
        default=[],
        help="other models for the same table: ours, MACE files (*.model), or ASE calculators as module:factory",
    )
    parser.add_argument(
        "--checks",
        metavar="N",
        type=whole_number(0),
        default=2,
        help="structures that the physical checks are made on, evenly chosen; 0 leaves them out (default: 2)",
    )
    parser.add_argument(
        "--energy-model", metavar="MODEL", help="pooled energy, against whose gradient the checks hold the forces"
    )
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")
    return parser


def _load(name: str, arguments: argparse.Namespace, device: torch.device, rows: Dataset, head: Any) -> Any:
    model = load_model(name, head, "", None if is_local(name) else arguments.revision)[0]
    require_known_elements(model, rows, name)
    return on_device(model, device)


def _energy_gradient(arguments: argparse.Namespace, device: torch.device, rows: Dataset) -> Forces | None:
    """Forces as the gradient of --energy-model; None without one."""
    if arguments.energy_model is None:
        return None
    if not arguments.checks:
        raise InputError("--energy-model is for the physical checks, which --checks 0 leaves out")
    revision = None if is_local(arguments.energy_model) else arguments.revision
    model, feature_extractor = load_model(arguments.energy_model, ADAPTForEnergy, "", revision)
    try:
        require_forces(model)
    except InputError as error:
        raise InputError(f"--energy-model: {error}") from error
    require_known_elements(model, rows, arguments.energy_model)
    return model_forces([on_device(model, device)], feature_extractor)


def _baselines(dataset: str, revision: str | None) -> tuple[CompositionBaseline | None, MeanBaseline | None]:
    """Fitted on the training split; a data set without one, or without energies in it, has no baselines."""
    try:
        train = read_split(dataset, "train", "energy", revision)
    except InputError as error:
        print(f"no baselines of the energy: {error}", file=sys.stderr)
        return None, None
    return fit_baseline(train), fit_mean_baseline(train)


def _spread(calibration: Calibration) -> str:
    found = calibration.metrics()
    return (
        f"spread of the forces on an atom: {found['spread_rms_mev_per_ang']:.1f} meV/Å, error of their mean "
        f"{found['error_rms_mev_per_ang']:.1f} meV/Å (root mean squares), rank correlation "
        f"{found['spread_error_spearman']:.2f}"
    )


def _header(arguments: argparse.Namespace) -> dict[str, Any]:
    header = {"model": arguments.model, "dataset": arguments.dataset, "split": arguments.split}
    return header | {
        name: value for name in ("subfolder", "revision", "dataset_revision") if (value := getattr(arguments, name))
    }


def _which(arguments: argparse.Namespace) -> dict[str, Any]:
    """By what the model is known again after its folder was renamed, or has other weights."""
    folder = weights_folder(arguments.model, arguments.subfolder, arguments.revision)
    known = {"weights_sha256": weights_hash(folder)}
    if is_local(arguments.model):
        known["model_path"] = str(folder.absolute())
    return {name: value for name, value in known.items() if value is not None}


if __name__ == "__main__":
    sys.exit(run_command(main))
