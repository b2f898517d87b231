"""How many processes a launch really started, and on what."""

import os
import sys

import torch

from ..errors import InputError
from .arguments import ADAPTTrainingArguments


def allow_processes_without_gpu() -> None:
    """
    Many processes on a machine without a GPU talk over gloo, which accelerate only does when told so. Without that
    each of them would train alone. Call before anything of accelerate is made.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def describe_processes(training: ADAPTTrainingArguments) -> str:
    """
    One line on the processes and the batch.

    Raises:
        [`InputError`]: processes were launched together, but each would train alone.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > 1 and training.world_size == 1:
        raise InputError(
            f"{launched} processes were launched, but each would train alone; launch with "
            "--config_file configuration/accelerate/cpu.yaml, or with a GPU for each process"
        )
    each, steps = training.train_batch_size, training.gradient_accumulation_steps
    total = each * training.world_size * steps
    line = f"training in {training.world_size} process{'es' if training.world_size > 1 else ''} on "
    line += f"{training.device.type}; {total} structures a step"
    if total != each:
        line += f" ({each} x {training.world_size} processes x {steps} accumulated)"
    return line


def warn_of_one_process(training: ADAPTTrainingArguments) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process and does not say so."""
    if training.world_size == 1 and "ACCELERATE_MIXED_PRECISION" in os.environ and training.device.type == "cpu":
        print(
            "warning: accelerate launched ONE process. For two on CPUs: "
            "accelerate launch --config_file configuration/accelerate/cpu.yaml train.py ...",
            file=sys.stderr,
        )
