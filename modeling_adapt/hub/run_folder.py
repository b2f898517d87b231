"""
What the folder of a trained model says of itself: the checkpoint, and the records beside it.

The numbers of its evaluation stand on the card, so those of another model must never get there.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..evaluation.answers import ANSWERS_FILE
from ..hub_access import HUB_DATASETS
from ..loading import weights_hash
from .records import read_record

ENERGY = "energy"  # the folder of a second model
_NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scheduler.bin", "scaler.pt")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".h5", ".msgpack")


@dataclass(frozen=True)
class RunFolder:
    """
    Args:
        model (`Path`): The folder of the checkpoint.
        run (`Path`): Where `train.py` left its records; mostly the same folder.
        evaluation (`Path`, *optional*): The folder that `evaluate.py` wrote for this model; None where there is none.
        answered (`Path`, *optional*): The folder with the answers of this model, which may be another one.
    """

    model: Path
    run: Path
    evaluation: Path | None = None
    answered: Path | None = None

    @cached_property
    def recipe(self) -> dict[str, Any]:
        return read_record(self.run / "recipe.yaml")

    @cached_property
    def parts(self) -> list[dict[str, Any]]:
        """Versions, device and data of each part of a training that was broken off and went on."""
        return read_record(self.run / "run.json").get("parts") or []

    @cached_property
    def training_metrics(self) -> dict[str, Any]:
        return read_record(self.run / "training_metrics.json")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return {} if self.evaluation is None else read_record(self.evaluation / "metrics.json")

    @cached_property
    def answers(self) -> dict[str, Any]:
        return {} if self.answered is None else read_record(self.answered / ANSWERS_FILE)

    @cached_property
    def training_seconds(self) -> float | None:
        """Of the last part of the training; `Trainer` logs it at the end."""
        log = read_record(self.run / "trainer_state.json").get("log_history") or []
        times = [entry["train_runtime"] for entry in log if "train_runtime" in entry]
        return times[-1] if times else None

    @property
    def dataset(self) -> str | None:
        """What it was trained on, as the recipe has it; a Hub id without its prefix."""
        return _plain(self.recipe.get("dataset"))

    @property
    def named_folders(self) -> list[Any]:
        """What the records may name that is of this machine, beside Hub ids and values that are not there."""
        of_recipe = [self.recipe.get(name) for name in ("dataset", "output_dir", "initial_model")]
        of_metrics = [self.metrics.get(name) for name in ("model", "model_path", "dataset")]
        of_answers = [self.answers.get(name) for name in ("model", "model_path", "host")]
        return [self.run, self.evaluation, self.answered, *of_recipe, *of_metrics, *of_answers]

    @property
    def evaluated_on_its_data(self) -> bool:
        """Whether the evaluation is of the data set of the training: by the whole name, not by the last part of it."""
        return self.dataset is not None and self.dataset == _plain(self.metrics.get("dataset"))


def open_runs(folders: Sequence[str | Path | None], evaluations: Sequence[str | Path] = ()) -> list[RunFolder]:
    """As [`open_run`] for all that are named; [`InputError`] too where an evaluation is of none of them."""
    runs = [open_run(folder, evaluations) for folder in folders if folder is not None]
    require_all_used(evaluations, [folder for run in runs for folder in (run.evaluation, run.answered)])
    return runs


def open_run(folder: str | Path, evaluations: Sequence[str | Path] = ()) -> RunFolder:
    """
    Args:
        folder (`str` or `Path`): What `train.py` or `save_pretrained` wrote.
        evaluations (`Sequence[str | Path]`, defaults to `()`):
            Folders that `evaluate.py` wrote; the one of this model is taken. Without one of this model, it is looked
            for where one would put it: in the run, or beside the model.

    Raises:
        [`InputError`]: There is no model in safetensors, a record is damaged, or an evaluation is not of one model.
    """
    run = Path(folder).expanduser()
    if not run.is_dir():
        raise InputError(f"{folder}: no such folder; name one that train.py or save_pretrained wrote")
    model = run if (run / "config.json").is_file() else run / "final"
    if not (model / "config.json").is_file():
        raise InputError(f"{folder} holds no model: there is no config.json; name a folder that train.py wrote")
    if not any(model.glob("*.safetensors")):
        names = sorted(path.name for path in model.iterdir() if path.suffix in PICKLES)
        pickled = [name for name in names if name not in _NO_WEIGHTS and not name.startswith("rng_state")]
        if pickled:
            raise InputError(
                f"{folder} has its weights as pickle only ({pickled[0]}), which nobody should load from a stranger; "
                "load it and save it again with save_pretrained, or use modeling_adapt.convert_published"
            )
        raise InputError(f"{folder} holds no weights: there is no model.safetensors")
    if model.name == "final" and not (model / "recipe.yaml").is_file():
        run = model.parent
    nearby = [run / "evaluation", run, run.absolute().parent / "evaluation"]
    given = [_evaluation_folder(one) for one in evaluations]
    evaluation = _evaluation_of(model, given, nearby)
    return RunFolder(model, run, evaluation, _answers_of(model, given, nearby, evaluation))


def require_all_used(evaluations: Sequence[str | Path], used: Sequence[Path | None]) -> None:
    """Raises [`InputError`] for an evaluation of another model: its numbers must not stand beside this one."""
    for given in evaluations:
        folder = _evaluation_folder(given)
        if folder in used:
            continue
        metrics = read_record(folder / "metrics.json") or read_record(folder / ANSWERS_FILE)
        if "weights_sha256" not in metrics:
            raise InputError(
                f"{given} does not say of which weights it is (by an earlier evaluate.py, of {metrics.get('model')}): "
                "evaluate the model again"
            )
        raise InputError(
            f"{given} is an evaluation of {metrics.get('model')}, not of this model; run evaluate.py on this one"
        )


def _evaluation_folder(given: str | Path) -> Path:
    """The folder that `evaluate.py` wrote, also where its `metrics.json` or `answers.json` is named.

    Raises:
        [`InputError`]: There is neither, or the numbers of metrics.json are not those of one model.
    """
    names = ("metrics.json", ANSWERS_FILE)
    folder = Path(given).expanduser()
    folder = folder.parent if folder.name in names and folder.is_file() else folder
    if not any((folder / name).is_file() for name in names):
        raise InputError(f"{given} holds no {' and no '.join(names)}; name a folder that evaluate.py wrote")
    if _is_of_several(read_record(folder / "metrics.json")):
        raise InputError(
            f"{given} is an evaluation of averaged predictions, not of this model alone; run evaluate.py on it "
            "without --ensemble and --num-images"
        )
    return folder


def _evaluation_of(model: Path, given: Sequence[Path], nearby: Sequence[Path]) -> Path | None:
    """The evaluation of the checkpoint in `model`: of those that were given, or else the first of those nearby.

    Raises:
        [`InputError`]: Two of those given are of it.
    """
    found = [folder for folder in given if _is_of(folder, model, given=True)]
    if len(found) > 1:
        raise InputError(f"{found[0]} and {found[1]} are both evaluations of {model}; name one of them")
    return found[0] if found else _nearby(model, nearby)


def _nearby(model: Path, folders: Sequence[Path]) -> Path | None:
    found = [folder for folder in folders if _is_of(folder, model, given=False)]
    for folder in found[:1]:
        left_out = f"; {found[1]} is one of it too" if len(found) > 1 else ""
        print(f"{model}: the card has the errors of {folder}{left_out}", file=sys.stderr)
    if not found:
        for folder in folders:
            if (folder / "metrics.json").is_file():
                print(
                    f"{folder} is not taken: it is no evaluation of these weights alone, or does not say of which",
                    file=sys.stderr,
                )
    return found[0] if found else None


def _answers_of(model: Path, given: Sequence[Path], nearby: Sequence[Path], evaluation: Path | None) -> Path | None:
    """The answers of the checkpoint in `model`, by the hash of the weights; those that were given come first."""
    for folder in (*given, *nearby):
        answers = read_record(folder / ANSWERS_FILE)
        if answers and answers.get("weights_sha256") == weights_hash(model):
            if folder not in (*given, evaluation):
                print(f"{model}: the card has the answers of {folder}", file=sys.stderr)
            return folder
    return None


def _is_of(evaluation: Path, model: Path, given: bool) -> bool:
    """By the hash of the weights. One without is of an earlier version: whoever names it says that it is this one's,
    and still what it names must be this folder."""
    metrics = read_record(evaluation / "metrics.json")
    if not metrics or _is_of_several(metrics):
        return False
    if "weights_sha256" in metrics:
        return metrics["weights_sha256"] == weights_hash(model)
    if not given or not isinstance(metrics.get("model"), str):
        return False
    recorded = Path(metrics["model"]).expanduser() / str(metrics.get("subfolder", ""))
    return recorded.resolve() == model.resolve()


def _is_of_several(metrics: dict[str, Any]) -> bool:
    """Of an ensemble, or of images of one model that nobody averages who loads it."""
    return bool(metrics.get("ensemble")) or metrics.get("num_images", 1) != 1


def _plain(name: str | None) -> str | None:
    """A name that two records of one data set share: Hub ids bare, folders without `./` and `/` at the end."""
    if name is None or name.startswith(HUB_DATASETS):
        return None if name is None else name.removeprefix(HUB_DATASETS)
    return os.path.normpath(os.path.expanduser(name))
