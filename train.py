"""
Trains ADAPT from a recipe on a structure data set, on one process or many.

    python train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo
    accelerate launch train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import yaml

from modeling_adapt import ADAPTConfig
from modeling_adapt.command_line import require_empty_folder, run_command
from modeling_adapt.data.reading import read_split
from modeling_adapt.evaluation.plots import training_curve
from modeling_adapt.training.arguments import MODEL_FIELDS, ADAPTTrainingArguments, RunArguments, parse_arguments
from modeling_adapt.training.trainer import build_trainer


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config, data, training = parse_arguments(argv)
    output = Path(training.output_dir)
    if not training.resume_from_checkpoint:
        require_empty_folder(output)
    target: Literal["forces", "energy"] = "energy" if config.model_type == "adapt_energy" else "forces"
    train_rows = read_split(data.dataset, data.train_split, target)
    validation_rows = None
    if data.validation_split is not None:
        validation_rows = read_split(data.dataset, data.validation_split, target)
    else:
        training.eval_strategy = "no"
    training.distributed_state.wait_for_everyone()  # nobody writes before everybody has checked

    trainer = build_trainer(config, data, training, train_rows, validation_rows)
    resume = training.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if resume in ("true", "True") else resume)
    metrics = trainer.evaluate() if validation_rows is not None else {}
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        write_record(output, config, data, training, metrics)
        if metrics:
            training_curve(trainer.state.log_history, output / "training_curve.png")
        print(f"model saved to: {output}")


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
