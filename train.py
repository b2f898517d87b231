"""
Trains ADAPT from a recipe on a structure data set, on one process or many.

    python train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo
    accelerate launch train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from transformers.trainer_utils import get_last_checkpoint

from modeling_adapt import ADAPTConfig
from modeling_adapt.command_line import require_empty_folder, run_command
from modeling_adapt.data.reading import read_split
from modeling_adapt.data.subsets import select_subset
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.plots import training_curve
from modeling_adapt.loading import load_model
from modeling_adapt.training.arguments import MODEL_FIELDS, ADAPTTrainingArguments, RunArguments, parse_arguments
from modeling_adapt.training.tasks import target_of
from modeling_adapt.training.trainer import build_trainer


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config, data, training = parse_arguments(argv)
    output = Path(training.output_dir)
    checkpoint = None
    if training.resume_from_checkpoint:
        checkpoint = checkpoint_to_resume(training.resume_from_checkpoint, output, config)
    else:
        require_empty_folder(output)
    target = target_of(config)
    train_rows = select_subset(read_split(data.dataset, data.train_split, target), data.train_subset)
    validation_rows = None
    if data.validation_split is not None:
        validation_rows = read_split(data.dataset, data.validation_split, target)
    else:
        training.eval_strategy = "no"
    training.distributed_state.wait_for_everyone()  # nobody writes before everybody has checked

    trainer = build_trainer(config, data, training, train_rows, validation_rows)
    trainer.train(resume_from_checkpoint=checkpoint)
    metrics = trainer.evaluate() if validation_rows is not None else {}
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        write_record(output, config, data, training, metrics)
        if metrics:
            training_curve(trainer.state.log_history, output / "training_curve.png")
        print(f"model saved to: {output}")


def checkpoint_to_resume(name: str, output: Path, config: ADAPTConfig) -> str:
    """The folder to resume from: `name`, or the last checkpoint in `output` where it is "true".

    Raises:
        [`InputError`]: there is none, or it holds another model than `config` describes.
    """
    folder = (get_last_checkpoint(str(output)) if output.is_dir() else None) if name.lower() == "true" else name
    if folder is None:
        raise InputError(f"{output} holds no checkpoint to resume from")
    if not (Path(folder) / "trainer_state.json").is_file():
        raise InputError(f"{folder} is no checkpoint of a run: it has no trainer_state.json")
    saved = load_model(folder)[0].config
    for field in ("model_type", *MODEL_FIELDS):
        there, here = (getattr(one, field, None) for one in (saved, config))
        there, here = (list(value) if isinstance(value, tuple) else value for value in (there, here))
        if there != here:
            raise InputError(f"{folder} holds another model: {field} is {there} there and {here} here")
    return folder


def write_record(
    output: Path, config: ADAPTConfig, data: RunArguments, training: ADAPTTrainingArguments, metrics: dict[str, Any]
) -> None:
    """Writes the resolved recipe, which `train.py` reads again, and the last evaluation beside the model."""
    defaults = ADAPTTrainingArguments(output_dir=str(output)).to_dict()
    changed = {name: value for name, value in training.to_dict().items() if value != defaults[name]}
    recipe = {name: getattr(config, name) for name in MODEL_FIELDS if hasattr(config, name)}
    recipe |= asdict(data) | changed | {"output_dir": str(output)}
    (output / "recipe.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(recipe)), sort_keys=False))
    (output / "training_metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
