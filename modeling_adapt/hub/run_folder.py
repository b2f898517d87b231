"""What the folder of a trained model says of itself: the checkpoint, and the records beside it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..hub_access import HUB_DATASETS
from .evaluations import evaluation_folder, evaluation_of
from .records import read_record

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
    def evaluated_on_its_data(self) -> bool:
        """Whether the evaluation is of the data set of the training: by the whole name, not by the last part of it."""
        return self.dataset is not None and self.dataset == _plain(self.metrics.get("dataset"))


def open_run(folder: str | Path, evaluations: Sequence[str | Path] = ()) -> RunFolder:
    """
    Args:
        folder: what `train.py` or `save_pretrained` wrote.
        evaluations: folders that `evaluate.py` wrote; the one of this model is taken. Without one of this model, it is
            looked for where one would put it: in the run, or beside the model.

    Raises:
        [`InputError`]: there is no model in safetensors, a record is damaged, or an evaluation is not of one model.
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
    return RunFolder(model, run, evaluation_of(model, [evaluation_folder(one) for one in evaluations], nearby))


def _plain(name: str | None) -> str | None:
    """A name that two records of one data set share: Hub ids bare, folders without `./` and `/` at the end."""
    if name is None or name.startswith(HUB_DATASETS):
        return None if name is None else name.removeprefix(HUB_DATASETS)
    return os.path.normpath(os.path.expanduser(name))
