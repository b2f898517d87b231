"""What the folder of a trained model says of itself: the checkpoint, and the records beside it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, one_line

_NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scheduler.bin", "scaler.pt")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".h5", ".msgpack")


@dataclass(frozen=True)
class RunFolder:
    """
    Attributes:
        model: the folder of the checkpoint.
        run: where `train.py` left its records; mostly the same folder.
        evaluation: the folder that `evaluate.py` wrote for this model; None where there is none.
    """

    model: Path
    run: Path
    evaluation: Path | None = None

    @cached_property
    def recipe(self) -> dict[str, Any]:
        return _read(self.run / "recipe.yaml")

    @cached_property
    def surroundings(self) -> dict[str, Any]:
        """Versions, device and data of the last part of the training."""
        parts = _read(self.run / "run.json").get("parts") or [{}]
        return parts[-1]

    @cached_property
    def training_metrics(self) -> dict[str, Any]:
        return _read(self.run / "training_metrics.json")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return {} if self.evaluation is None else _read(self.evaluation / "metrics.json")

    @cached_property
    def training_seconds(self) -> float | None:
        """Of the last part of the training; `Trainer` logs it at the end."""
        log = _read(self.run / "trainer_state.json").get("log_history") or []
        times = [entry["train_runtime"] for entry in log if "train_runtime" in entry]
        return times[-1] if times else None


def open_run(folder: str | Path, evaluations: Sequence[str | Path] = ()) -> RunFolder:
    """
    Args:
        folder: what `train.py` or `save_pretrained` wrote.
        evaluations: folders that `evaluate.py` wrote; the one of this model is taken. Without one of this model, it is
            looked for where one would put it: in the run, or beside the model.

    Raises:
        [`InputError`]: there is no model in safetensors, or a record is damaged.
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
    return RunFolder(model, run, _evaluation(model, run, [Path(one).expanduser() for one in evaluations]))


def _evaluation(model: Path, run: Path, given: Sequence[Path]) -> Path | None:
    for folder in given:
        if not (folder / "metrics.json").is_file():
            raise InputError(f"{folder} holds no metrics.json; name a folder that evaluate.py wrote")
    nearby = [run / "evaluation", run, run.absolute().parent / "evaluation"]
    return next((folder for folder in [*given, *nearby] if _is_of(folder, model, run)), None)


def _is_of(evaluation: Path, model: Path, run: Path) -> bool:
    """Whether its metrics are of this model: what `evaluate.py` was given leads there, or has its name."""
    metrics = _read(evaluation / "metrics.json")
    if not isinstance(metrics.get("model"), str):
        return False
    recorded = Path(metrics["model"]).expanduser() / metrics.get("subfolder", "")
    ours = (model.resolve(), run.resolve())
    return recorded.resolve() in ours if recorded.exists() else recorded.name in {path.name for path in ours}


def require_all_used(evaluations: Sequence[str | Path], runs: Sequence[RunFolder]) -> None:
    """Raises [`InputError`] for an evaluation of another model: its numbers must not stand beside this one."""
    used = [run.evaluation for run in runs]
    for folder in evaluations:
        if Path(folder).expanduser() not in used:
            name = _read(Path(folder).expanduser() / "metrics.json").get("model")
            raise InputError(f"{folder} is an evaluation of {name}, not of this model; run evaluate.py on this one")


def _read(path: Path) -> dict[str, Any]:
    """A mapping of JSON or YAML; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} cannot be read: it holds no names with values")
    return found
