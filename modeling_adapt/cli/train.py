"""
Trains ADAPT from a recipe on a structure data set, on one process or many.

    python train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo
    accelerate launch train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo

A run that was cut off goes on when the same command is given again with --resume_from_checkpoint true.
"""

import sys
from pathlib import Path

import datasets

from ..data.load.reading import NoSuchSplitError, pinned_revision, read_split, select_subset
from ..data.structures import Target
from ..errors import InputError
from ..training.arguments import RunArguments, parse_arguments
from ..training.building import build_trainer
from ..training.processes import allow_processes_without_gpu, describe_processes, warn_of_one_process
from ..training.record import write_metrics, write_recipe, write_surroundings
from ..training.resuming import checkpoint_to_resume, require_same_run
from ..training.tasks import target_of
from .command_line import run_command


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    allow_processes_without_gpu()
    config, data, training = parse_arguments(argv)
    processes = describe_processes(training)
    checkpoint = checkpoint_to_resume(training)
    data.dataset_revision = pinned_revision(data.dataset, data.dataset_revision)
    rows = read_rows(data, target_of(config))
    if "validation" not in rows:
        training.eval_strategy = "no"
    trainer = build_trainer(config, data, training, rows)
    if checkpoint is not None:
        require_same_run(checkpoint, trainer)
    training.distributed_state.wait_for_everyone()  # nobody writes before everybody has checked

    output = Path(training.output_dir)
    if trainer.is_world_process_zero():
        warn_of_one_process(training)
        print(processes)
        output.mkdir(parents=True, exist_ok=True)
        write_surroundings(trainer, rows, checkpoint)
        write_recipe(output, config, data, training)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.save_model()  # before it is evaluated: hours of work do not hang on what comes after
    metrics = trainer.evaluate() if "validation" in rows else {}
    if "test" in rows:
        metrics |= trainer.test(rows["test"])
    trainer.save_state()
    if trainer.is_world_process_zero():
        write_metrics(output, metrics)
        print(f"model saved to: {output}")


def read_rows(data: RunArguments, target: Target) -> dict[str, datasets.Dataset]:
    """The splits that the run uses: `"train"`, and `"validation"` and `"test"` where they are named."""
    revision = data.dataset_revision
    train = read_split(data.dataset, data.train_split, target, revision)
    rows = {"train": select_subset(train, data.train_subset)}
    for name, split in (("validation", data.validation_split), ("test", data.test_split)):
        if split is None:
            continue
        try:
            rows[name] = read_split(data.dataset, split, target, revision)
        except NoSuchSplitError as error:
            raise InputError(
                f"{error}; name another with --{name}_split, go without with --{name}_split null, or divide the data "
                "with data_scripts/split_dataset.py"
            ) from None
    return rows


if __name__ == "__main__":
    sys.exit(run_command(main))
