"""
Trains ADAPT from a recipe on a structure data set, on one process or many.

    python train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo
    accelerate launch train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo

A run that was cut off goes on when the same command is given again with --resume_from_checkpoint true.
"""

import json
import sys
from pathlib import Path

import datasets

from modeling_adapt.command_line import run_command
from modeling_adapt.data.reading import read_split
from modeling_adapt.data.structures import Target
from modeling_adapt.data.subsets import select_subset
from modeling_adapt.errors import InputError
from modeling_adapt.training.arguments import RunArguments, parse_arguments
from modeling_adapt.training.building import build_trainer
from modeling_adapt.training.processes import (
    allow_processes_without_gpu,
    describe_processes,
    warn_of_one_process,
)
from modeling_adapt.training.record import write_recipe, write_surroundings
from modeling_adapt.training.resuming import checkpoint_to_resume, require_same_run
from modeling_adapt.training.tasks import target_of


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    allow_processes_without_gpu()
    config, data, training = parse_arguments(argv)
    processes = describe_processes(training)
    output = Path(training.output_dir)
    checkpoint = checkpoint_to_resume(training, config)
    target = target_of(config)
    rows = {"train": select_subset(read_split(data.dataset, data.train_split, target), data.train_subset)}
    if data.validation_split is not None:
        rows["validation"] = validation_rows(data, target)
    else:
        training.eval_strategy = "no"
    if data.test_split is not None:
        rows["test"] = read_split(data.dataset, data.test_split, target)
    trainer = build_trainer(config, data, training, rows["train"], rows.get("validation"))
    if checkpoint is not None:
        require_same_run(checkpoint, trainer)
    training.distributed_state.wait_for_everyone()  # nobody writes before everybody has checked

    if trainer.is_world_process_zero():
        warn_of_one_process(training)
        print(processes)
        output.mkdir(parents=True, exist_ok=True)
        write_recipe(output, config, data, training)
        sizes = {split: len(table) for split, table in rows.items()}
        parameters = sum(weight.numel() for weight in trainer.model.parameters())
        write_surroundings(output, training, sizes, trainer.run["data"], parameters)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    metrics = trainer.evaluate() if "validation" in rows else {}
    if "test" in rows:
        metrics |= trainer.test(rows["test"])
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        (output / "training_metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        print(f"model saved to: {output}")


def validation_rows(data: RunArguments, target: Target) -> datasets.Dataset:
    """The split that chooses the model; what to do without one is said."""
    try:
        return read_split(data.dataset, str(data.validation_split), target)
    except InputError as error:
        if "has no split" not in str(error):
            raise
        raise InputError(
            f"{error}; name another with --validation_split, train without with --validation_split null, or divide "
            "the data with data_scripts/split_dataset.py"
        ) from None


if __name__ == "__main__":
    sys.exit(run_command(main))
