"""Command: errors of a trained model on a data set, beside those of knowing nothing, or of other models."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import alone_in, finished_folder, require_empty_folder
from ..training.options import read_charge
from .command_line import CommandParser, positive_number, whole_number

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..data.structures import Target
    from ..evaluation.answers import Answer
    from ..evaluation.report import Assessment
    from ..evaluation.symmetry import Forces
    from ..feature_extraction_adapt import ADAPTFeatureExtractor

EXAMPLE = """\
example:
  python evaluate.py runs/silicon datasets/silicon --split test --output results/silicon
  python evaluate.py runs/one datasets/silicon --ensemble runs/two runs/three --output results/three
  python evaluate.py runs/energy datasets/silicon --calibrate
  python evaluate.py runs/one datasets/silicon --compare runs/two MACE.model my_module:my_calculator
  python evaluate.py runs/silicon --answers silicon --output results/answers

Prints tables by config_type, element and distance to the defect, and what physics demands of the forces. With --output
it also writes
  metrics.json            every figure of the tables, with the unit in its name, and the hash of the weights
  parity.png              predictions against references (energy_parity.png where a model gives forces and energies)
  stress_parity.png       of the stress, where data and model have one
  error_by_distance.png   errors of the forces against the distance to the defect
  error_by_force.png      and against the reference force
  calibration.png         with --ensemble or --num-images: error against the spread of the predictions
With --compare it prints one table of all models, and --output has comparison.json and comparison.csv.
With --answers it measures what an energy model is made for, beside DFT and other potentials, with or without a data
set: lattice, elastic constants, phonons, a surface, formation energies and a barrier. --output has
  answers.json            every answer, in each size of the supercell
  answers.png             the energies, beside those of DFT
"""


def main(argv: list[str] | None = None) -> int | None:
    arguments = _parser().parse_args(argv)
    _require_consistent(arguments)
    output = None if arguments.output is None else require_empty_folder(arguments.output)

    from ..data.load.reading import pinned_revision
    from ..device import available_device

    arguments.device = available_device(arguments.device)
    if arguments.dataset is not None:
        arguments.dataset_revision = pinned_revision(arguments.dataset, arguments.dataset_revision)
    work = _answer if arguments.dataset is None else _compare if arguments.compare else _evaluate
    with nullcontext() if output is None else finished_folder(output) as folder:
        what = work(arguments, folder)
    if output is not None:
        print(f"{what} saved to: {output}")
    return 0


def _answer(arguments: argparse.Namespace, folder: Path | None) -> str:
    """The answers alone, for which there need be no data set and any calculator will do."""
    from ..evaluation.answers import answers_text, write_answers

    answers = _answers(arguments)
    print(answers_text(answers))
    if folder is not None:
        write_answers(folder, answers, _answers_record(arguments))
    return "answers"


def _answers(arguments: argparse.Namespace) -> "dict[str, Answer]":
    from ..evaluation.answers import answer, answering_calculator
    from ..evaluation.questions import read_questions

    questions = read_questions(arguments.answers)
    where = (arguments.device, arguments.revision, arguments.subfolder)
    return answer(questions, answering_calculator(arguments.model, questions, *where))


def _answers_record(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("model", "subfolder", "revision", "answers")
    record = {name: value for name in names if (value := getattr(arguments, name))}
    record["host"] = record.pop("answers")
    return record | _which(arguments)


def _evaluate(arguments: argparse.Namespace, folder: Path | None) -> str:
    from ..evaluation.answers import answers_text, write_answers
    from ..evaluation.report import Assessment
    from ..loading import load_model
    from ..modeling_adapt import ADAPTForEnergy

    if arguments.calibrate:
        _calibrate(arguments)
    answers = _answers(arguments) if arguments.answers else {}
    model, feature_extractor = load_model(arguments.model, None, arguments.subfolder, arguments.revision)
    found = Assessment()
    if isinstance(model, ADAPTForEnergy):
        _assess_energies(found, arguments, model, feature_extractor)
    if model.config.gives_stress:
        _assess_stress(found, arguments, model, feature_extractor)
    if model.config.gives_forces:
        _assess_forces(found, arguments, model, feature_extractor)
    elif arguments.energy_model:
        raise InputError(f"--energy-model: {arguments.model} gives no forces to hold against its gradient")
    print(found.text())
    if answers:
        print(answers_text(answers))
    if found.calibration is not None and "energy" in found.evaluations:
        print(f"forces are of the mean, energies of {arguments.model} alone")
    if arguments.split == "train":
        print("These structures were trained on: the errors say nothing about structures that were not.")
    if folder is not None:
        is_mean = found.calibration is not None
        members = {"ensemble": arguments.ensemble, "num_images": arguments.num_images} if is_mean else {}
        found.write(folder, _header(arguments) | _which(arguments) | members)
        if answers:
            write_answers(folder, answers, _answers_record(arguments))
    return "metrics and figures"


def _calibrate(arguments: argparse.Namespace) -> None:
    """Writes the doubt of a model beside its weights."""
    from ..evaluation.rigidity import write_doubt
    from ..hub_access import is_local
    from ..loading import load_model, weights_folder
    from ..pretrained_adapt import in_the_box
    from ..training.tasks import target_of

    if in_the_box(arguments.model) != arguments.model:
        raise InputError(f"{arguments.model} comes with the package, which has its uncertainty already; copy it first")
    if not is_local(arguments.model):
        raise InputError(f"--calibrate writes beside the weights, and {arguments.model} is no folder; save it in one")
    folder = weights_folder(arguments.model, arguments.subfolder)
    config = load_model(folder)[0].config
    target = target_of(config)
    train, validation = (_rows(arguments, split, target, config.reads_charge) for split in ("train", "validation"))
    with alone_in(folder):
        write_doubt(folder, train, validation, arguments.device, arguments.batch_size, widened=arguments.widen)
    print(f"uncertainty of its energies saved to: {folder}")


def _assess_energies(
    found: "Assessment", arguments: argparse.Namespace, model: "PreTrainedModel", extractor: "ADAPTFeatureExtractor"
) -> None:
    """Errors beside those of baselines; a data set that has no energies to train on has no baselines."""
    from ..evaluation.evaluate import evaluate_energy
    from ..evaluation.rigidity import check_doubt
    from ..reference_energies import fit_baseline, fit_mean_baseline
    from ..simulation.doubt import load_doubt

    rows = _rows(arguments, arguments.split, "energy", model.config.reads_charge)
    model = _ready(arguments, model, arguments.model, rows)
    baseline = mean_baseline = None
    try:
        train = _rows(arguments, "train", "energy", model.config.reads_charge)
        baseline, mean_baseline = fit_baseline(train), fit_mean_baseline(train)
    except InputError as error:
        print(f"no baselines of the energy: {error}", file=sys.stderr)
    found.evaluations["energy"] = evaluate_energy(
        model, extractor, rows, arguments.batch_size, baseline=baseline, mean_baseline=mean_baseline
    )
    if (doubt := load_doubt(arguments.model, arguments.subfolder, arguments.revision)) is not None:
        found.doubt = check_doubt(model, extractor, doubt, rows, arguments.batch_size)


def _assess_stress(
    found: "Assessment", arguments: argparse.Namespace, model: "PreTrainedModel", extractor: "ADAPTFeatureExtractor"
) -> None:
    """Errors on the structures of the split that have a stress, if any."""
    import numpy as np

    from ..data.load.survey import survey
    from ..evaluation.evaluate import evaluate_stress

    rows = _rows(arguments, arguments.split, None, model.config.reads_charge)
    labelled = np.flatnonzero(survey(rows).stressed)
    if labelled.size:
        rows = rows.select(labelled)
        model = _ready(arguments, model, arguments.model, rows)
        found.evaluations["stress"] = evaluate_stress(model, extractor, rows, arguments.batch_size)


def _assess_forces(
    found: "Assessment", arguments: argparse.Namespace, model: "PreTrainedModel", extractor: "ADAPTFeatureExtractor"
) -> None:
    """Errors of the model, or of the mean over its ensemble and symmetry images, and what physics demands of them."""
    from ..evaluation.calibration import calibrate
    from ..evaluation.evaluate import evaluate_forces
    from ..evaluation.physical_checks import chosen_structures, host_in, model_forces, physical_checks

    rows = _rows(arguments, arguments.split, "forces", model.config.reads_charge)
    model = _ready(arguments, model, arguments.model, rows)
    gradient = _energy_gradient(arguments, rows)
    models = [model, *_ensemble(arguments, type(model), rows)]
    if len(models) > 1 or arguments.num_images > 1:
        found.calibration = calibrate(models, extractor, rows, arguments.num_images)
        found.evaluations["forces"] = found.calibration.evaluation
    else:
        found.evaluations["forces"] = evaluate_forces(model, extractor, rows, arguments.batch_size)
    if arguments.checks:
        structures = chosen_structures(rows, arguments.checks)
        forces = model_forces(models, extractor, arguments.num_images)
        host = host_in(structures, model.config.training_domain)
        found.checks = physical_checks(forces, structures, host, gradient)


def _compare(arguments: argparse.Namespace, folder: Path | None) -> str:
    from ..evaluation.compare import compare, comparison_table, load_contender, write_comparison, zero_forces

    subfolders = [arguments.subfolder, *[""] * len(arguments.compare)]
    contenders = [
        load_contender(name, arguments.device, arguments.revision, subfolder)
        for name, subfolder in zip((arguments.model, *arguments.compare), subfolders, strict=True)
    ]
    rows = _rows(arguments, arguments.split, "forces", contenders[0].reads_charge)
    found = compare([*contenders, zero_forces()], rows)
    print(comparison_table(found))
    print(
        f"forces in meV/Å, times of one structure at a time on {arguments.device}; energies in meV as they are: one "
        "with another zero than the data is wrong by that much"
    )
    if folder is not None:
        write_comparison(folder, found, _header(arguments) | {"device": str(arguments.device)})
    return "comparison"


def _require_consistent(arguments: argparse.Namespace) -> None:
    """As far as the command line alone tells."""
    if arguments.dataset is None and not arguments.answers:
        raise InputError("name a data set, or what to answer with --answers; see --help")
    if arguments.dataset is None and (arguments.ensemble or arguments.num_images > 1):
        raise InputError("--answers are of one model as it is: leave out --ensemble and --num-images")
    if arguments.dataset is None and (arguments.energy_model or arguments.dataset_revision or arguments.charge):
        raise InputError(
            "--energy-model, --dataset-revision and --charge go with a data set, and there is none: leave them out"
        )
    if arguments.answers and arguments.compare:
        raise InputError("--answers are of one model: leave out --compare")
    if arguments.num_images > 48:
        raise InputError("--num-images: a cube has 48 symmetry images")
    if arguments.compare and (arguments.ensemble or arguments.num_images > 1 or arguments.energy_model):
        raise InputError("--compare is of single models: leave out --ensemble, --num-images and --energy-model")
    names = [arguments.model, *arguments.compare]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--compare: {twice[0]} is named twice")
    if arguments.calibrate and arguments.compare:
        raise InputError("--calibrate is of one model: leave out --compare")
    if arguments.calibrate and arguments.dataset is None:
        raise InputError("--calibrate needs a data set, with splits train and validation")
    if arguments.widen != 1 and not arguments.calibrate:
        raise InputError("--widen goes with --calibrate, which writes the uncertainty: leave it out")
    if arguments.energy_model and not arguments.checks:
        raise InputError("--energy-model is for the physical checks, which --checks 0 leaves out")


def _ensemble(arguments: argparse.Namespace, head: Any, rows: "Dataset") -> "list[PreTrainedModel]":
    """The models beside the first one, which have its head."""
    from ..hub_access import revision_for
    from ..loading import load_model

    models = []
    for name in arguments.ensemble:
        model, _ = load_model(name, head, "", revision_for(name, arguments.revision))
        models.append(_ready(arguments, model, name, rows))
    return models


def _energy_gradient(arguments: argparse.Namespace, rows: "Dataset") -> "Forces | None":
    """Forces as the gradient of --energy-model; None without one."""
    from ..evaluation.physical_checks import model_forces
    from ..hub_access import revision_for
    from ..loading import load_model, require_forces
    from ..modeling_adapt import ADAPTForEnergy

    if arguments.energy_model is None:
        return None
    revision = revision_for(arguments.energy_model, arguments.revision)
    model, feature_extractor = load_model(arguments.energy_model, ADAPTForEnergy, "", revision)
    try:
        require_forces(model)
    except InputError as error:
        raise InputError(f"--energy-model: {error}") from error
    return model_forces([_ready(arguments, model, arguments.energy_model, rows)], feature_extractor)


def _rows(arguments: argparse.Namespace, split: str, target: "Target | None", reads_charge: bool = False) -> "Dataset":
    """Those of a split that have what is evaluated, of charges that the model can tell apart."""
    from ..data.load.reading import of_one_charge, read_split

    rows = read_split(arguments.dataset, split, target, arguments.dataset_revision)
    return of_one_charge(rows, arguments.charge, split, reads_charge)


def _ready(arguments: argparse.Namespace, model: "PreTrainedModel", name: str, rows: "Dataset") -> "PreTrainedModel":
    """On its device, and known to know the elements of `rows`."""
    from ..device import on_device
    from ..evaluation.evaluate import require_known_elements

    require_known_elements(model, rows, name)
    return on_device(model, arguments.device)


def _header(arguments: argparse.Namespace) -> dict[str, Any]:
    header = {"model": arguments.model, "dataset": arguments.dataset, "split": arguments.split}
    return header | {
        name: value
        for name in ("subfolder", "revision", "dataset_revision", "charge")
        if (value := getattr(arguments, name))
    }


def _which(arguments: argparse.Namespace) -> dict[str, Any]:
    """By what the model is known again after its folder was renamed, or has other weights."""
    from ..evaluation.compare import is_of_others
    from ..hub_access import is_local
    from ..loading import weights_folder, weights_hash

    if is_of_others(arguments.model):
        return {}
    folder = weights_folder(arguments.model, arguments.subfolder, arguments.revision)
    known = {"weights_sha256": weights_hash(folder)}
    if is_local(arguments.model):
        known["model_path"] = str(folder.absolute())
    return {name: value for name, value in known.items() if value is not None}


def _charge(text: str) -> str | None:
    try:
        return read_charge(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("Errors of a force or energy model on a data set, beside trivial baselines.", EXAMPLE)
    models = parser.add_argument_group("model")
    models.add_argument("model", help="checkpoint folder or Hub id of a force or energy model")
    models.add_argument(
        "--subfolder", default="", metavar="NAME", help="where in the model's folder or repository it is"
    )
    models.add_argument("--revision", help="branch, tag or commit of the models that are Hub ids (default: main)")
    models.add_argument(
        "--ensemble", metavar="MODEL", nargs="+", default=[], help="more models of the kind, whose mean is evaluated"
    )
    models.add_argument(
        "--num-images",
        type=whole_number(1),
        default=1,
        help="symmetry images to average over, at most 48 (default: 1)",
    )
    models.add_argument("--batch-size", type=whole_number(1), default=16, help="structures at a time (default: 16)")
    models.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")

    data = parser.add_argument_group("data")
    data.add_argument("dataset", nargs="?", help="data set folder or Hub id; with --answers, none is needed")
    data.add_argument("--dataset-revision", metavar="REVISION", help="of a data set on the Hub (default: main)")
    data.add_argument("--split", default="test", help="split to evaluate (default: test)")
    data.add_argument(
        "--charge",
        type=_charge,
        help="structures of this charge alone, such as 0 or -1; any: all, by a model that does not read it",
    )

    found = parser.add_argument_group("what is found")
    found.add_argument("--output", metavar="DIR", help="new folder for metrics.json and the figures")
    found.add_argument(
        "--compare",
        metavar="MODEL",
        nargs="+",
        default=[],
        help="other models for the same table: ours, MACE files (*.model), or ASE calculators as module:factory",
    )
    found.add_argument(
        "--answers",
        metavar="HOST",
        help="what an energy model says of a host, as silicon or a YAML file like configuration/answers/silicon.yaml; "
        "MODEL may be a MACE file or module:factory",
    )
    found.add_argument(
        "--checks",
        metavar="N",
        type=whole_number(0),
        default=2,
        help="structures that the physical checks are made on, evenly chosen; 0 leaves them out (default: 2)",
    )
    found.add_argument(
        "--calibrate",
        action="store_true",
        help="first find how uncertain energies of the model are, from the splits train and validation, and save that "
        "beside its weights",
    )
    found.add_argument(
        "--widen",
        metavar="FACTOR",
        type=positive_number,
        default=1.0,
        help="with --calibrate: by how much errors of differences of energies exceeded their uncertainty where a kind "
        "of structures had been left out of the training (default: 1)",
    )
    found.add_argument(
        "--energy-model", metavar="MODEL", help="pooled energy, against whose gradient the checks hold the forces"
    )
    return parser
