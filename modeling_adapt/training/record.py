"""What a run folder tells: the recipe, what it was run with, and how it went, as table and as curve."""

import json
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from transformers import TrainerCallback, TrainerState, TrainingArguments

from ..configuration_adapt import ADAPTConfig
from ..errors import InputError
from ..evaluation.plots import training_curve
from ..files import write_whole
from ..tables import csv_text
from .arguments import MODEL_FIELDS, ADAPTTrainingArguments
from .options import RunArguments
from .trainer import ADAPTTrainer

_PACKAGES = ("adapt-force-field", "torch", "transformers", "accelerate", "datasets", "safetensors", "ase", "numpy")
_FILLED_IN = {
    **dict.fromkeys(("activation_checkpointing", "gradient_checkpointing", "disable_tqdm"), False),
    **dict.fromkeys(("report_to", "debug"), []),
}
_NOT_REPEATED = ("resume_from_checkpoint", "accelerator_config", "hub_token")  # of the launch, not of the recipe


class RunRecord(TrainerCallback):
    """Keeps `metrics.csv` and `training_curve.png` in the run folder up to date, also of a run that is cut off."""

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._write(args, state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._write(args, state)

    @staticmethod
    def _write(args: TrainingArguments, state: TrainerState) -> None:
        if not (state.is_world_process_zero and state.log_history):
            return
        output = Path(args.output_dir)
        try:
            write_log(state.log_history, output / "metrics.csv")
            chosen = state.best_global_step if args.load_best_model_at_end else None
            training_curve(state.log_history, output / "training_curve.png", chosen)
        except (InputError, OSError) as error:  # no reason to end a training
            print(f"warning: {error}", file=sys.stderr)


def write_log(log_history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """
    One line per step at which something was logged, one column per quantity; units are in the names. The final
    evaluation is of the model that is left, not of its step: it is in `training_metrics.json`.
    """
    columns = ["step", "epoch"]
    lines: dict[int, dict[str, Any]] = {}
    for entry in log_history:
        columns += [name for name in entry if name not in columns]
        lines[entry["step"]] = {**entry, **lines.get(entry["step"], {})}
    write_whole(path, csv_text([columns, *([line.get(name) for name in columns] for line in lines.values())]))


def write_recipe(output: Path, config: ADAPTConfig, data: RunArguments, training: ADAPTTrainingArguments) -> None:
    """Writes `recipe.yaml`, which `train.py` reads again: what differs from the defaults, and the whole model."""
    values = training.to_dict()
    changed = {name: values[name] for name, default in _defaults().items() if values.get(name, default) != default}
    recipe = {name: value for name, value in config.to_dict().items() if name in MODEL_FIELDS}
    recipe |= asdict(data) | changed | {"output_dir": str(output)}
    write_whole(output / "recipe.yaml", yaml.safe_dump(json.loads(json.dumps(recipe)), sort_keys=False))


def write_metrics(output: Path, metrics: Mapping[str, Any]) -> None:
    """Writes `training_metrics.json`: the final model on the validation split and, once, on the test split."""
    write_whole(output / "training_metrics.json", json.dumps(metrics, indent=2) + "\n")


def _defaults() -> dict[str, Any]:
    """
    Of the training arguments, as they are after transformers has filled them in. A second `ADAPTTrainingArguments`
    would tell, but to make one takes down the process group of the first.
    """
    given = {field.name: field.default for field in fields(ADAPTTrainingArguments) if field.default is not MISSING}
    plain = {name: value.value if isinstance(value, Enum) else value for name, value in given.items()}
    return {name: value for name, value in (plain | _FILLED_IN).items() if name not in _NOT_REPEATED}


def write_surroundings(
    trainer: ADAPTTrainer,
    rows: Mapping[str, datasets.Dataset],
    checkpoint: Path | None,
    sources: Sequence[Mapping[str, Any]] = (),
) -> None:
    """
    Writes `run.json`: versions, revision, processes and data. A run that goes on adds an entry, so that what each part
    of it was run with stays known. Of `sources`, as the card of the data set tells of them, those of the training
    split are kept.
    """
    training, output = trainer.args, Path(trainer.args.output_dir)
    path = output / "run.json"
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, KeyError):
        parts = []
    device = torch.cuda.get_device_name(training.device) if training.device.type == "cuda" else platform.processor()
    part = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "resumed_from": None if checkpoint is None else str(checkpoint),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES}
        | {"torch": str(torch.__version__)},  # with its build, such as +cu130
        "git_revision": _git_revision(),
        "device": f"{training.device.type} {device}".strip(),
        "threads": torch.get_num_threads(),
        "structures": {split: len(table) for split, table in rows.items()},
        "sources": _learned_from(rows["train"], sources),
        "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
        **trainer.checkpoints.run,
    }
    write_whole(path, json.dumps({"parts": [*parts, part]}, indent=2) + "\n")


def _learned_from(train_rows: datasets.Dataset, sources: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Name, licence and number of structures of the sources that the training split has rows of."""
    counts = Counter(train_rows["source_name"])
    kept = ("name", "license", "citation", "url")
    return [
        {name: source[name] for name in kept if name in source} | {"structures": counts[source["name"]]}
        for source in sources
        if counts[source.get("name")]
    ]


def _git_revision() -> str | None:
    """Of the code, with a + where it was changed since; None outside a checkout."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", "-C", str(here), *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
