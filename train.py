"""
Trains ADAPT from a recipe on a structure data set, on one process or many.

    python train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo
    accelerate launch train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo

A run that was cut off goes on when the same command is given again with --resume_from_checkpoint true.
"""

import json
import sys
from pathlib import Path

from modeling_adapt import ADAPTConfig
from modeling_adapt.command_line import require_empty_folder, run_command
from modeling_adapt.data.reading import read_split
from modeling_adapt.data.subsets import select_subset
from modeling_adapt.errors import InputError
from modeling_adapt.loading import load_model
from modeling_adapt.training.arguments import MODEL_FIELDS, parse_arguments
from modeling_adapt.training.building import build_trainer
from modeling_adapt.training.checkpoints import newest_checkpoint, read_seal
from modeling_adapt.training.processes import (
    allow_processes_without_gpu,
    describe_processes,
    warn_of_one_process,
)
from modeling_adapt.training.record import write_recipe, write_surroundings
from modeling_adapt.training.tasks import target_of
from modeling_adapt.training.trainer import ADAPTTrainer


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    allow_processes_without_gpu()
    config, data, training = parse_arguments(argv)
    processes = describe_processes(training)
    output = Path(training.output_dir)
    checkpoint = checkpoint_to_resume(training.resume_from_checkpoint, output, config)
    if training.resume_from_checkpoint is None:
        require_empty_folder(output)
    target = target_of(config)
    rows = {"train": select_subset(read_split(data.dataset, data.train_split, target), data.train_subset)}
    if data.validation_split is not None:
        rows["validation"] = read_split(data.dataset, data.validation_split, target)
    else:
        training.eval_strategy = "no"
    if data.test_split is not None:
        rows["test"] = read_split(data.dataset, data.test_split, target)
    trainer = build_trainer(config, data, training, rows["train"], rows.get("validation"))
    if checkpoint is not None:
        require_same_data(checkpoint, trainer)
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
        metrics |= trainer.evaluate(trainer.dataset_of(rows["test"]), metric_key_prefix="test")
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        (output / "training_metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        print(f"model saved to: {output}")


def checkpoint_to_resume(wanted: str | None, output: Path, config: ADAPTConfig) -> Path | None:
    """
    The folder to go on from: the one that is named, or for "true" the newest complete one in `output`. What is wrong
    with newer ones is said; the run will write them anew. None starts from the beginning.

    Raises:
        [`InputError`]: the folder is no complete checkpoint, or holds another model than `config` describes.
    """
    if wanted is None:
        return None
    if wanted.lower() == "true":
        folder, faults = newest_checkpoint(output)
        for fault in faults:
            print(f"warning: {fault}", file=sys.stderr)
        if folder is None:
            if not (output / "run.json").is_file():
                require_empty_folder(output)
            print(f"no complete checkpoint in {output}: starting from the beginning", file=sys.stderr)
            return None
    else:
        folder = Path(wanted)
        if not (folder / "trainer_state.json").is_file():
            raise InputError(f"{folder} is no checkpoint of a run: it has no trainer_state.json")
        read_seal(folder)
    saved = load_model(folder)[0].config
    for field in ("model_type", *MODEL_FIELDS):
        there, here = (getattr(one, field, None) for one in (saved, config))
        there, here = (list(value) if isinstance(value, tuple) else value for value in (there, here))
        if there != here:
            raise InputError(f"{folder} holds another model: {field} is {there} there and {here} here")
    return folder


def require_same_data(checkpoint: Path, trainer: ADAPTTrainer) -> None:
    """Raises [`InputError`] if `checkpoint` learned from other structures than `trainer` is about to."""
    there = read_seal(checkpoint)
    if there["data"] != trainer.run["data"]:
        raise InputError(
            f"{checkpoint} was trained on other structures than the data set has now; resume with the data of that "
            "run, or start a new one from it with --initial_model"
        )
    if there["processes"] != trainer.run["processes"] and trainer.is_world_process_zero():
        print(
            f"note: {checkpoint} ran in {there['processes']} processes, this run in {trainer.run['processes']}; "
            "dropout will differ from an uninterrupted run",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
